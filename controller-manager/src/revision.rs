//! ControllerRevisions: the templates that a DaemonSet or StatefulSet once had, so that it can go back.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use keelson_api::selector::Selector;
use keelson_runtime::{Informer, Informers, owners, write};
use kube::api::PostParams;
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, json};

use crate::adoption::{self, Namespaced};

/// The label of pods and revisions with the revision's hash.
pub const HASH: &str = "controller-revision-hash";
const BY_OWNER: &str = "controller";

/// The informer of revisions, indexed by owner.
pub fn informer(informers: &Informers) -> Informer<ControllerRevision> {
    let revisions = informers.get::<ControllerRevision>();
    revisions.index_by(BY_OWNER, |revision| {
        vec![match owners::controller_of(&revision.metadata) {
            Some(owner) => owner.uid.clone(),
            None => format!(
                "/{}",
                revision.metadata.namespace.as_deref().unwrap_or_default()
            ),
        }]
    });
    revisions
}

/// What a revision keeps of an owner: a strategic merge patch that puts the template back.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The history of one owner.
pub struct History {
    /// The revision of the present template.
    pub current: ControllerRevision,
    /// The others, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
}

/// The owner that a history is of.
pub struct Subject<'a, O> {
    /// The owner.
    pub owner: &'a O,
    /// Its selector.
    pub selector: &'a Selector,
    /// Its template.
    pub template: &'a PodTemplateSpec,
    /// How often its hashes collided.
    pub collisions: Option<i32>,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// Another template has the same hash; the owner must count the collision.
    #[error("the name of the new revision is taken by another template")]
    Collision,
    /// The API server refused.
    #[error(transparent)]
    Api(#[from] Error),
}

/// The owner's history, with a revision made for its present template if there is none.
pub async fn history<O: Namespaced>(
    client: &Client,
    revisions: &Informer<ControllerRevision>,
    subject: &Subject<'_, O>,
) -> Result<History, RevisionError> {
    let meta = subject.owner.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let own = revisions.by_index(BY_OWNER, meta.uid.as_deref().unwrap_or_default());
    let orphans = revisions.by_index(BY_OWNER, &format!("/{namespace}"));
    let candidates = own.into_iter().chain(orphans);
    let mut all = adoption::claim(client, subject.owner, subject.selector, candidates, |_| {
        true
    })
    .await?;
    all.sort_by_key(|revision| (revision.revision, revision.name_any()));
    let api = Api::<ControllerRevision>::namespaced(client.clone(), namespace);
    let wanted = data(subject.template);
    let newest = all.last().map_or(0, |revision| revision.revision);
    let same =
        |revision: &ControllerRevision| revision.data.as_ref().is_some_and(|data| data.0 == wanted);
    let Some(position) = all.iter().rposition(|revision| same(revision)) else {
        let current = create(&api, subject, wanted, newest + 1).await?;
        return Ok(History { current, old: all });
    };
    let mut current = (*all.remove(position)).clone();
    if current.revision < newest {
        // The template is an old one again: it is the newest now.
        let patch = json!({"metadata": {"uid": current.metadata.uid}, "revision": newest + 1});
        current = write::patch_merge(&api, &current.name_any(), &patch).await?;
    }
    // Should the same template have several revisions, one is enough.
    Ok(History { current, old: all })
}

async fn create<O: Namespaced>(
    api: &Api<ControllerRevision>,
    subject: &Subject<'_, O>,
    data: Value,
    number: i64,
) -> Result<ControllerRevision, RevisionError> {
    let hash = crate::deployment::hash(subject.template, subject.collisions);
    let mut labels: BTreeMap<String, String> = subject
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    let meta = subject.owner.meta();
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", subject.owner.name_any())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![owners::controller_ref(subject.owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data.clone())),
        revision: number,
    };
    match api.create(&PostParams::default(), &revision).await {
        Err(error) if write::is_already_exists(&error) => {
            let present = api.get_opt(&revision.name_any()).await?;
            match present {
                Some(present)
                    if present.data.as_ref().is_some_and(|kept| kept.0 == data)
                        && owners::is_controlled_by(
                            &present.metadata,
                            meta.uid.as_deref().unwrap_or_default(),
                        ) =>
                {
                    Ok(present)
                }
                Some(_) => Err(RevisionError::Collision),
                None => Err(error.into()),
            }
        }
        other => Ok(other?),
    }
}

/// Deletes the oldest revisions beyond the limit that no pod has any more.
pub async fn clean_up(
    client: &Client,
    history: &History,
    limit: i32,
    live: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let unused: Vec<_> = history
        .old
        .iter()
        .filter(|revision| !revision.labels().get(HASH).is_some_and(|hash| live(hash)))
        .collect();
    let surplus = unused
        .len()
        .saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in unused.into_iter().take(surplus) {
        let namespace = revision.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<ControllerRevision>::namespaced(client.clone(), namespace);
        let params = write::delete_params(revision.metadata.uid.as_deref(), None);
        write::optional(api.delete(&revision.name_any(), &params).await)?;
    }
    Ok(())
}
