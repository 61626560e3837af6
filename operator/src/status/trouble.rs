//! Why workers are not there, in Kubernetes' own words: from the Deployment's conditions and the pods' statuses.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;

use crate::build::names::SERVER;
use crate::observe::Observed;
use crate::pod;

/// Something that keeps a worker from running or from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Kubernetes' word for it, or a worker's own.
    pub(super) reason: String,
    /// The thing and what is wrong with it.
    pub(super) message: String,
}

/// The gravest trouble that Kubernetes reports, or none.
pub(super) fn of_pods(seen: &Observed) -> Option<Trouble> {
    let refused = seen.deployment.as_deref().and_then(refused);
    refused
        .or_else(|| first(seen, of_containers))
        .or_else(|| first(seen, unschedulable))
        .or_else(|| seen.ended.iter().find_map(|pod| failed(pod)))
}

/// What workers that run say about themselves: all distinct problems, at most three of them in words.
pub(super) fn of_workers(seen: &Observed) -> Option<Trouble> {
    let mut told = BTreeSet::new();
    let mut words = Vec::new();
    let mut reason = None;
    for (worker, state) in seen.workers.iter().filter_map(|w| Some((w, w.state()?))) {
        for problem in &state.problems {
            reason.get_or_insert_with(|| problem.reason.clone());
            if told.insert((&problem.reason, &problem.message)) && words.len() < 3 {
                words.push(format!("worker {}: {}", worker.pod, problem.message));
            }
        }
    }
    reason.map(|reason| Trouble { reason, message: words.join("; ") })
}

fn first(seen: &Observed, of: fn(&Pod) -> Option<Trouble>) -> Option<Trouble> {
    seen.pods.iter().find_map(|pod| of(pod))
}

/// The ReplicaSet may not make pods: quota, Pod Security, an admission webhook.
fn refused(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let reason = failure.reason.clone().filter(|r| !r.is_empty()).unwrap_or_else(|| "FailedCreate".into());
    Some(Trouble { reason, message: failure.message.clone().unwrap_or_default() })
}

fn of_containers(pod: &Pod) -> Option<Trouble> {
    let (reason, what) = pod::containers(pod).filter(|c| !c.ready).find_map(of_container)?;
    // The kubelet reports it as if it were the container's own image.
    let of_model = model_image(pod).is_some_and(|image| tells_of(&what, image));
    let whose = if of_model { "; it is the model's: spec.model.source.image" } else { "" };
    Some(Trouble { reason, message: format!("pod {}: {what}{whose}", pod.name_any()) })
}

/// The image that is mounted as the model.
fn model_image(pod: &Pod) -> Option<&str> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    volumes.iter().find_map(|volume| volume.image.as_ref()?.reference.as_deref())
}

/// Whether a message names this image, as it was written or in full: `docker.io/library/` before, `:latest` behind.
fn tells_of(message: &str, image: &str) -> bool {
    let words = message.split(|c: char| c.is_whitespace() || c == '"');
    words.map(|word| word.trim_end_matches([':', ',', ';', '.'])).any(|word| {
        let before = word.strip_suffix(":latest").unwrap_or(word).strip_suffix(image.trim_end_matches(":latest"));
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

fn of_container(container: &ContainerStatus) -> Option<(String, String)> {
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let ended = container.state.as_ref().and_then(|s| s.terminated.as_ref()).or(last);
    let times = container.restart_count;
    let (who, limit, logs) = if container.name == SERVER {
        ("the container server", "spec.model.server.container.resources.limits.memory", " -c server")
    } else {
        ("the container", "spec.worker.resources.limits.memory", "")
    };
    if let Some(ended) = ended.filter(|e| e.reason.as_deref() == Some("OOMKilled")) {
        let message =
            format!("{who} ran out of memory (exit code {}, restarted {times} times): raise {limit}", ended.exit_code);
        return Some(("OOMKilled".into(), message));
    }
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
    let reason = waiting.and_then(|w| w.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|w| w.message.clone()).unwrap_or_else(|| reason.to_owned());
    // Between two waits it runs for a moment and ends: one word for all three keeps the condition from flapping.
    let crashing = times >= 2 && ended.is_some_and(|e| e.exit_code != 0);
    let reason = match reason {
        reason if crashing && pod::is_being_made(reason) => "CrashLoopBackOff",
        reason => reason,
    };
    match reason {
        reason if pod::is_being_made(reason) => None,
        // The kubelet alternates between the two: one word for both keeps the condition from flapping.
        "ErrImagePull" | "ImagePullBackOff" => Some(("ImagePullBackOff".into(), message)),
        "CrashLoopBackOff" => {
            let code = ended.map_or_else(String::new, |e| format!(" with exit code {}", e.exit_code));
            Some((
                reason.into(),
                format!("{who} ended{code} and was restarted {times} times; see `kubectl logs --previous{logs}`"),
            ))
        }
        _ => Some((reason.into(), message)),
    }
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let reason = scheduled.reason.clone().filter(|r| r == "Unschedulable" || r == "SchedulingGated")?;
    let message = format!("pod {}: {}", pod.name_any(), scheduled.message.as_deref().unwrap_or_default());
    Some(Trouble { reason, message })
}

fn failed(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref().filter(|s| s.phase.as_deref() == Some("Failed"))?;
    let reason = status.reason.clone().unwrap_or_else(|| "PodFailed".into());
    let message = format!("pod {}: {}", pod.name_any(), status.message.as_deref().unwrap_or("it failed"));
    Some(Trouble { reason, message })
}
