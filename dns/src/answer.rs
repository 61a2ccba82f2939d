//! From a query to its answer: our zone's records, or what the forwarder says of names outside.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom;

use crate::forward::Forwarder;
use crate::zone::{Found, Service, Zone, reverse_address};

/// Seconds that records of the cluster may be kept by clients (CoreDNS's value for Kubernetes).
const TTL: u32 = 30;
/// Aliases followed for one query.
const ALIASES_MOST: usize = 8;

/// Answers queries.
#[derive(Debug)]
pub struct Answerer {
    zone: Arc<Zone>,
    forwarder: Forwarder,
}

/// What a question yields.
struct Outcome {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Outcome {
    fn code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

impl Answerer {
    /// With this zone, and a forwarder for the rest.
    pub fn new(zone: Arc<Zone>, forwarder: Forwarder) -> Self {
        Self { zone, forwarder }
    }

    /// The answer to a message, or `None` for what deserves none (answers, garbage without a header).
    pub async fn answer(&self, bytes: &[u8]) -> Option<Message> {
        let query = match Message::from_vec(bytes) {
            Ok(query) => query,
            Err(_) => {
                // What has at least a header that says it is a query gets its own id back.
                let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
                let is_response = bytes.get(2)? & 0x80 != 0;
                return (bytes.len() >= 12 && !is_response)
                    .then(|| Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
            }
        };
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.metadata.recursion_desired = query.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        if let Some(edns) = &query.edns {
            let mut ours = hickory_proto::op::Edns::new();
            ours.set_max_payload(edns.max_payload().clamp(512, crate::serve::UDP_MOST));
            ours.set_version(0);
            response.set_edns(ours);
        }
        let outcome = match (query.metadata.op_code, query.queries.as_slice()) {
            (OpCode::Query, [question]) => {
                response.add_query(question.clone());
                self.question(question).await
            }
            (OpCode::Query, _) => Outcome::code(ResponseCode::FormErr),
            _ => Outcome::code(ResponseCode::NotImp),
        };
        response.metadata.response_code = outcome.code;
        response.metadata.authoritative = outcome.authoritative;
        response.answers = outcome.answers;
        response.authorities = outcome.authorities;
        response.additionals = outcome.additionals;
        Some(response)
    }

    async fn question(&self, question: &Query) -> Outcome {
        if question.query_class != DNSClass::IN {
            return Outcome::code(ResponseCode::Refused);
        }
        let text = question.name.to_lowercase().to_ascii();
        let text = text.trim_end_matches('.');
        if let Some(relative) = self.zone.relative(text) {
            return self.local(question, relative).await;
        }
        if let Some(address) = reverse_address(text) {
            let names = self.zone.reverse(address);
            if !names.is_empty() {
                let answers = if matches!(question.query_type, RecordType::PTR | RecordType::ANY) {
                    names
                        .iter()
                        .filter_map(|n| name(n))
                        .map(|n| record(&question.name, RData::PTR(PTR(n))))
                        .collect()
                } else {
                    Vec::new()
                };
                return Outcome {
                    authoritative: true,
                    answers,
                    ..Outcome::code(ResponseCode::NoError)
                };
            }
        }
        self.forwarded(question).await
    }

    async fn forwarded(&self, question: &Query) -> Outcome {
        match self.forwarder.ask(question).await {
            Ok(message) => Outcome {
                code: message.metadata.response_code,
                authoritative: false,
                answers: message.answers,
                authorities: message.authorities,
                additionals: Vec::new(),
            },
            Err(error) => {
                tracing::debug!(%error, "could not forward");
                Outcome::code(ResponseCode::ServFail)
            }
        }
    }

    async fn local(&self, question: &Query, relative: &str) -> Outcome {
        let owner = &question.name;
        let mut outcome = Outcome {
            authoritative: true,
            ..Outcome::code(ResponseCode::NoError)
        };
        match self.zone.find(relative) {
            Found::Nothing => outcome.code = ResponseCode::NXDomain,
            Found::Empty if relative.is_empty() && question.query_type == RecordType::SOA => {
                outcome.answers.extend(self.soa())
            }
            Found::Empty => {}
            Found::Text(text) if question.query_type == RecordType::TXT => outcome
                .answers
                .push(record(owner, RData::TXT(TXT::new(vec![text])))),
            Found::Text(_) => {}
            Found::Addresses(mut addresses) => {
                // Clients that use the first address are spread this way.
                addresses.shuffle(&mut rand::rng());
                outcome.answers = address_records(owner, question.query_type, &addresses);
            }
            Found::Services(services)
                if matches!(question.query_type, RecordType::SRV | RecordType::ANY) =>
            {
                (outcome.answers, outcome.additionals) = service_records(owner, &services);
            }
            Found::Services(_) => {}
            Found::Alias(target) => match name(&target) {
                Some(target) => return self.alias(question, target).await,
                None => outcome.code = ResponseCode::ServFail,
            },
        }
        if outcome.answers.is_empty() {
            outcome.authorities.extend(self.soa());
        }
        outcome
    }

    /// Follows an ExternalName: inside the cluster by the zone, outside by the forwarder.
    async fn alias(&self, question: &Query, target: Name) -> Outcome {
        let mut outcome = Outcome {
            authoritative: true,
            ..Outcome::code(ResponseCode::NoError)
        };
        let mut owner = question.name.clone();
        let mut target = target;
        for _ in 0..ALIASES_MOST {
            outcome
                .answers
                .push(record(&owner, RData::CNAME(CNAME(target.clone()))));
            if question.query_type == RecordType::CNAME {
                return outcome;
            }
            let text = target.to_lowercase().to_ascii();
            let Some(relative) = self.zone.relative(text.trim_end_matches('.')) else {
                let rest = self
                    .forwarded(&Query::query(target, question.query_type))
                    .await;
                // The alias itself is known even when its target cannot be asked for.
                if rest.code == ResponseCode::NoError {
                    outcome.answers.extend(rest.answers);
                }
                return outcome;
            };
            match self.zone.find(relative) {
                Found::Addresses(addresses) => {
                    outcome.answers.extend(address_records(
                        &target,
                        question.query_type,
                        &addresses,
                    ));
                    return outcome;
                }
                Found::Alias(next) => match name(&next) {
                    Some(next) => owner = std::mem::replace(&mut target, next),
                    None => return outcome,
                },
                _ => return outcome,
            }
        }
        outcome
    }

    fn soa(&self) -> Option<Record> {
        let domain = name(&format!("{}.", self.zone.domain()))?;
        let primary = name(&format!("ns.dns.{}.", self.zone.domain()))?;
        let contact = name(&format!("hostmaster.{}.", self.zone.domain()))?;
        Some(record(
            &domain,
            RData::SOA(SOA::new(primary, contact, 1, 7200, 1800, 86_400, TTL)),
        ))
    }
}

fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record(owner: &Name, data: RData) -> Record {
    Record::from_rdata(owner.clone(), TTL, data)
}

fn address_records(owner: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    let any = kind == RecordType::ANY;
    addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) if any || kind == RecordType::A => Some(RData::A(A(*v4))),
            IpAddr::V6(v6) if any || kind == RecordType::AAAA => Some(RData::AAAA(AAAA(*v6))),
            _ => None,
        })
        .map(|data| record(owner, data))
        .collect()
}

fn service_records(owner: &Name, services: &[Service]) -> (Vec<Record>, Vec<Record>) {
    let weight = u16::try_from(100 / services.len().max(1))
        .unwrap_or(1)
        .max(1);
    let (mut answers, mut additionals) = (Vec::new(), Vec::new());
    for service in services {
        let Some(target) = name(&service.target) else {
            continue;
        };
        answers.push(record(
            owner,
            RData::SRV(SRV::new(0, weight, service.port, target.clone())),
        ));
        additionals.extend(address_records(
            &target,
            RecordType::ANY,
            &service.addresses,
        ));
    }
    (answers, additionals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Port, Records};

    fn answerer() -> Answerer {
        let zone = Zone::new("cluster.local");
        zone.set_namespace("default", true);
        let ports = vec![Port {
            name: "http".into(),
            protocol: "tcp".into(),
            number: 80,
        }];
        zone.set(
            "default",
            "api",
            Some(Records::Cluster {
                addresses: vec![IpAddr::from([10, 96, 0, 7])],
                ports,
            }),
        );
        zone.set(
            "default",
            "alias",
            Some(Records::External("api.default.svc.cluster.local".into())),
        );
        zone.set(
            "default",
            "loop",
            Some(Records::External("loop.default.svc.cluster.local".into())),
        );
        Answerer::new(Arc::new(zone), Forwarder::new(Vec::new()))
    }

    async fn ask(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
        answerer()
            .answer(&query.to_vec().expect("encode"))
            .await
            .expect("an answer")
    }

    fn data(message: &Message) -> Vec<String> {
        message.answers.iter().map(|r| r.data.to_string()).collect()
    }

    #[tokio::test]
    async fn answers_of_the_zone() {
        let a = ask("API.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(data(&a), ["10.96.0.7"]);
        assert!(a.metadata.authoritative);
        let srv = ask("_http._tcp.api.default.svc.cluster.local.", RecordType::SRV).await;
        assert_eq!(data(&srv), ["0 100 80 api.default.svc.cluster.local."]);
        assert_eq!(srv.additionals.len(), 1);
        let ptr = ask("7.0.96.10.in-addr.arpa.", RecordType::PTR).await;
        assert_eq!(data(&ptr), ["api.default.svc.cluster.local."]);
    }

    #[tokio::test]
    async fn no_such_name_and_no_such_record_carry_the_soa() {
        let nothing = ask("nope.default.svc.cluster.local.", RecordType::A).await;
        assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(nothing.authorities.len(), 1);
        let v6 = ask("api.default.svc.cluster.local.", RecordType::AAAA).await;
        assert_eq!(v6.metadata.response_code, ResponseCode::NoError);
        assert_eq!((v6.answers.len(), v6.authorities.len()), (0, 1));
    }

    #[tokio::test]
    async fn aliases_are_followed_but_not_for_ever() {
        assert_eq!(
            data(&ask("alias.default.svc.cluster.local.", RecordType::A).await),
            ["api.default.svc.cluster.local.", "10.96.0.7"]
        );
        assert_eq!(
            ask("loop.default.svc.cluster.local.", RecordType::A)
                .await
                .answers
                .len(),
            ALIASES_MOST
        );
    }

    #[tokio::test]
    async fn garbage_gets_a_format_error_or_nothing() {
        let answerer = answerer();
        assert!(answerer.answer(&[1, 2, 3]).await.is_none());
        assert!(
            answerer
                .answer(&[0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0])
                .await
                .is_none(),
            "an answer is not answered"
        );
        let reply = answerer
            .answer(&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c])
            .await
            .expect("a reply");
        assert_eq!(
            (reply.metadata.id, reply.metadata.response_code),
            (7, ResponseCode::FormErr)
        );
    }
}
