//! KubeSchedulerConfiguration: which plugins a profile gets, and what is refused.

#[allow(dead_code, reason = "only the client is needed here")]
mod api;

use std::io::Write;

use keelson_runtime::Recorder;
use kube_scheduler::config::Configuration;
use kube_scheduler::daemon;
use kube_scheduler::framework::Point;

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

/// The plugins at a point with their weights, by profile; or the refusal.
async fn plugins(text: &str, point: Point) -> Result<Vec<String>, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "{HEAD}{text}").expect("written");
    let config = Configuration::load(file.path()).map_err(|e| e.to_string())?;
    let client = api::Api::new().client();
    let (recorder, _told) = Recorder::fake();
    let scheduler = daemon::build(&config, client, recorder).map_err(|e| e.to_string())?;
    let all = scheduler.profiles.values().flat_map(|profile| {
        let plugins = profile.at(point);
        let name = profile.name.clone();
        plugins.map(move |(plugin, weight)| format!("{name}: {} {weight}", plugin.name()))
    });
    Ok(all.collect())
}

#[tokio::test]
async fn the_default_profile_has_upstreams_plugins_and_weights() {
    let score = plugins("", Point::Score).await;
    assert_eq!(
        score.as_deref(),
        Ok([
            "default-scheduler: TaintToleration 3",
            "default-scheduler: NodeAffinity 2",
            "default-scheduler: NodeResourcesFit 1",
            "default-scheduler: PodTopologySpread 2",
            "default-scheduler: InterPodAffinity 2",
            "default-scheduler: NodeResourcesBalancedAllocation 1",
            "default-scheduler: ImageLocality 1",
        ]
        .map(str::to_owned)
        .as_slice())
    );
}

#[tokio::test]
async fn plugins_are_left_out_and_weighed_by_point() {
    let text = "
profiles:
- schedulerName: a
  plugins:
    score: {disabled: [{name: '*'}], enabled: [{name: ImageLocality, weight: 7}]}
- schedulerName: b
  plugins:
    multiPoint: {disabled: [{name: TaintToleration}, {name: ImageLocality}, {name: NodeAffinity}]}
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
";
    let score = plugins(text, Point::Score).await.expect("plugins");
    assert_eq!(score[0], "a: ImageLocality 7");
    assert_eq!(score[1], "b: NodeResourcesFit 1");
    let filter = plugins(text, Point::Filter).await.expect("plugins");
    assert!(filter.contains(&"a: TaintToleration 3".to_owned()));
    assert!(!filter.contains(&"b: TaintToleration 3".to_owned()));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    for (text, why) in [
        ("profils: []", "unknown field"),
        (
            "extenders: [{urlPrefix: http://x}]",
            "extenders are not supported",
        ),
        (
            "profiles: [{plugins: {multiPoint: {enabled: [{name: Nope}]}}}]",
            "there is no plugin \"Nope\"",
        ),
        (
            "profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]",
            "has no bind plugin",
        ),
        (
            "profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]",
            "must have exactly one queueSort plugin",
        ),
        (
            "profiles: [{plugins: {score: {enabled: [{name: NodeName}]}}}]",
            "plugin NodeName has no extension point Score",
        ),
        ("profiles: [{}, {}]", "two profiles"),
        ("percentageOfNodesToScore: 101", "between 0 and 100"),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]",
            "arguments of plugin NodeResourcesFit",
        ),
    ] {
        let refusal = plugins(text, Point::Score).await.expect_err(text);
        assert!(refusal.contains(why), "{text}: {refusal}");
    }
}
