//! Leader election on a Lease, with upstream's rules.
//!
//! A candidate takes a lease that is free, expired (by its own clock since it saw the lease change, so clocks may differ) or its own. The leader
//! renews it and stops leading when it couldn't for the renew deadline. What to do when leadership is lost is left to the caller: a
//! daemon exits, because nothing else is safe.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::hostlock::HostLock;
use crate::metrics::{METRICS, Name};

/// The election's settings; the defaults are upstream's.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lease's namespace.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// How long a lease that nobody renews stands.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// The pause between tries.
    pub retry_period: Duration,
    /// The file that keeps this host's identity; without one every start is a new candidate.
    pub identity_file: Option<PathBuf>,
}

impl Options {
    /// Upstream's defaults for a lease in `kube-system`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            identity_file: None,
        }
    }
}

/// Where the lease is kept: the API server, or a fake.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// The lease, if there is one.
    async fn get(&self) -> Result<Option<Lease>, kube::Error>;
    /// Creates it.
    async fn create(&self, lease: Lease) -> Result<Lease, kube::Error>;
    /// Replaces it, if its resource version is still the given one.
    async fn replace(&self, lease: Lease) -> Result<Lease, kube::Error>;
}

struct ApiLease {
    api: Api<Lease>,
    name: String,
}

#[async_trait]
impl LeaseStore for ApiLease {
    async fn get(&self) -> Result<Option<Lease>, kube::Error> {
        self.api.get_opt(&self.name).await
    }

    async fn create(&self, lease: Lease) -> Result<Lease, kube::Error> {
        self.api.create(&PostParams::default(), &lease).await
    }

    async fn replace(&self, lease: Lease) -> Result<Lease, kube::Error> {
        self.api
            .replace(&self.name, &PostParams::default(), &lease)
            .await
    }
}

/// A candidate, and after [`Elector::acquire`] the leader.
pub struct Elector {
    options: Options,
    store: Box<dyn LeaseStore>,
    lock: HostLock,
    seen: Option<(Lease, Instant)>,
}

impl Elector {
    /// A candidate for a lease at the API server.
    pub fn new(client: Client, options: Options) -> Self {
        let store = ApiLease {
            api: Api::namespaced(client, &options.namespace),
            name: options.name.clone(),
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_else(|_| "localhost".into());
        Self::with_store(Box::new(store), options, host.trim())
    }

    /// A candidate for a lease kept elsewhere.
    pub fn with_store(store: Box<dyn LeaseStore>, options: Options, host: &str) -> Self {
        let lock = Self::identify(options.identity_file.as_deref(), host);
        METRICS
            .leader
            .get_or_create(&Name {
                name: options.name.clone(),
            })
            .set(0);
        Self {
            options,
            store,
            lock,
            seen: None,
        }
    }

    fn identify(file: Option<&Path>, host: &str) -> HostLock {
        let Some(file) = file else {
            return HostLock::fresh(host);
        };
        HostLock::acquire(file, host).unwrap_or_else(|error| {
            warn!(file = %file.display(), %error, "cannot keep an identity; after a crash the old lease has to expire first");
            HostLock::fresh(host)
        })
    }

    /// Who this candidate is.
    pub fn identity(&self) -> &str {
        &self.lock.identity
    }

    /// Waits until this candidate leads.
    pub async fn acquire(&mut self) {
        info!(lease = %self.options.name, identity = %self.identity(), "attempting to acquire leader lease");
        loop {
            match tokio::time::timeout(self.options.renew_deadline, self.try_once()).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    debug!(lease = %self.options.name, %error, "cannot look at the lease")
                }
                Err(_) => debug!(lease = %self.options.name, "no answer about the lease"),
            }
            tokio::time::sleep(self.options.retry_period).await;
        }
        info!(lease = %self.options.name, "successfully acquired lease");
        self.gauge(1);
    }

    /// Renews the lease until that fails for the renew deadline; returns when leadership is lost.
    pub async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.options.retry_period).await;
            let deadline = renewed + self.options.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => debug!(lease = %self.options.name, "another holds the lease"),
                Ok(Err(error)) => {
                    debug!(lease = %self.options.name, %error, "cannot renew the lease")
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline && renewed + self.options.renew_deadline <= Instant::now()
            {
                warn!(lease = %self.options.name, "failed to renew lease: leadership lost");
                self.gauge(0);
                return;
            }
        }
    }

    /// Gives the lease up, so that another may lead at once. Call it when everything that the leader did has stopped.
    pub async fn release(&mut self) -> Result<(), kube::Error> {
        self.gauge(0);
        let Some(mut lease) = self.store.get().await? else {
            return Ok(());
        };
        if holder(&lease) != self.identity() {
            return Ok(());
        }
        let now = MicroTime(jiff::Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(now.clone());
        spec.acquire_time = Some(now);
        self.store.replace(lease).await?;
        Ok(())
    }

    fn gauge(&self, value: i64) {
        METRICS
            .leader
            .get_or_create(&Name {
                name: self.options.name.clone(),
            })
            .set(value);
    }

    /// One try to take or keep the lease.
    async fn try_once(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(jiff::Timestamp::now());
        let mut spec = LeaseSpec {
            holder_identity: Some(self.identity().to_owned()),
            lease_duration_seconds: Some(
                i32::try_from(self.options.lease_duration.as_secs()).unwrap_or(i32::MAX),
            ),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        // The leader's own last write is as good as a read, and a conflict tells if it isn't.
        if let Some((mine, _)) = self
            .seen
            .take_if(|(lease, _)| holder(lease) == self.lock.identity)
            && let Some(before) = &mine.spec
        {
            let mut kept = spec.clone();
            kept.acquire_time.clone_from(&before.acquire_time);
            kept.lease_transitions = before.lease_transitions;
            let lease = Lease {
                spec: Some(kept),
                ..mine
            };
            if let Ok(lease) = self.store.replace(lease).await {
                self.seen = Some((lease, Instant::now()));
                return Ok(true);
            }
        }
        let Some(lease) = self.store.get().await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.options.name.clone()),
                    namespace: Some(self.options.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            let lease = self.store.create(lease).await?;
            self.seen = Some((lease, Instant::now()));
            return Ok(true);
        };
        let changed = self
            .seen
            .as_ref()
            .is_none_or(|(seen, _)| seen.spec != lease.spec);
        if changed {
            self.seen = Some((lease.clone(), Instant::now()));
        }
        let before = lease.spec.clone().unwrap_or_default();
        let mine = holder(&lease) == self.identity();
        let stands = Duration::from_secs(
            u64::try_from(before.lease_duration_seconds.unwrap_or(0)).unwrap_or(0),
        );
        let expired = self
            .seen
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= stands);
        if !mine && !holder(&lease).is_empty() && !expired {
            debug!(lease = %self.options.name, holder = holder(&lease), "lock is held and has not yet expired");
            return Ok(false);
        }
        spec.lease_transitions = before.lease_transitions;
        if mine {
            spec.acquire_time = before.acquire_time;
        } else {
            spec.lease_transitions = Some(before.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        let lease = self
            .store
            .replace(Lease {
                spec: Some(spec),
                ..lease
            })
            .await?;
        self.seen = Some((lease, Instant::now()));
        Ok(true)
    }
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[derive(Default)]
    struct Fake {
        lease: Option<Lease>,
        version: u64,
        down: bool,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Fake>>);

    fn fail(reason: &str, code: u16) -> kube::Error {
        kube::Error::Api(Status::failure(reason, reason).with_code(code).boxed())
    }

    impl Shared {
        fn write(&self, mut lease: Lease, create: bool) -> Result<Lease, kube::Error> {
            let mut fake = self.0.lock();
            if fake.down {
                return Err(fail("ServiceUnavailable", 503));
            }
            let current = fake
                .lease
                .as_ref()
                .and_then(|l| l.metadata.resource_version.clone());
            if create != current.is_none()
                || (!create && current != lease.metadata.resource_version)
            {
                return Err(fail("Conflict", 409));
            }
            fake.version += 1;
            lease.metadata.resource_version = Some(fake.version.to_string());
            fake.lease = Some(lease.clone());
            Ok(lease)
        }
    }

    #[async_trait]
    impl LeaseStore for Shared {
        async fn get(&self) -> Result<Option<Lease>, kube::Error> {
            let fake = self.0.lock();
            if fake.down {
                Err(fail("ServiceUnavailable", 503))
            } else {
                Ok(fake.lease.clone())
            }
        }
        async fn create(&self, lease: Lease) -> Result<Lease, kube::Error> {
            self.write(lease, true)
        }
        async fn replace(&self, lease: Lease) -> Result<Lease, kube::Error> {
            self.write(lease, false)
        }
    }

    fn candidate(store: &Shared, file: Option<&Path>) -> Elector {
        let options = Options {
            identity_file: file.map(Path::to_owned),
            ..Options::new("test")
        };
        Elector::with_store(Box::new(store.clone()), options, "node")
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_candidate_waits_until_the_lease_expires() {
        let store = Shared::default();
        let mut first = candidate(&store, None);
        first.acquire().await;
        let start = Instant::now();
        let mut second = candidate(&store, None);
        second.acquire().await;
        assert!(
            (15..=18).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
        let lease = store.0.lock().lease.clone().unwrap();
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(1));
        // The first one finds out at its next renewal and gives up after the deadline.
        let lost = Instant::now();
        tokio::time::timeout(Duration::from_secs(60), first.renew())
            .await
            .unwrap();
        assert!(lost.elapsed() <= Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_sole_replica_takes_its_own_lease_back_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        let store = Shared::default();
        let mut first = candidate(&store, Some(&file));
        first.acquire().await;
        drop(first);
        let start = Instant::now();
        candidate(&store, Some(&file)).acquire().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_survives_a_short_outage_and_not_a_long_one() {
        let store = Shared::default();
        let mut leader = candidate(&store, None);
        leader.acquire().await;
        let outage = store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            outage.0.lock().down = true;
            tokio::time::sleep(Duration::from_secs(7)).await;
            outage.0.lock().down = false;
            tokio::time::sleep(Duration::from_secs(20)).await;
            outage.0.lock().down = true;
        });
        let start = Instant::now();
        leader.renew().await;
        assert!(
            (40..=45).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_at_the_next_try() {
        let store = Shared::default();
        let mut first = candidate(&store, None);
        first.acquire().await;
        first.release().await.unwrap();
        let start = Instant::now();
        candidate(&store, None).acquire().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
