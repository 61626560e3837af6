//! The QueueConsumer of a simulation, checked as the operator checks it.

use std::sync::Arc;

use millrace_api::QueueConsumer;

use crate::validate::{Problem, Validated, validate};

/// Why a QueueConsumer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is none.
    #[error("it is no QueueConsumer: {0}; give the file that you would apply with kubectl, with one object in it")]
    Parse(String),
    /// The operator would refuse it.
    #[error("the operator would refuse it: {0}")]
    Invalid(String),
}

/// Reads a QueueConsumer from YAML or JSON.
pub(super) fn parse(text: &str) -> Result<Validated, SpecError> {
    let mut consumer: QueueConsumer =
        serde_saphyr::from_str(text).map_err(|error| SpecError::Parse(error.to_string()))?;
    // What an API server would add.
    consumer.metadata.uid.get_or_insert_with(|| "simulated".into());
    let told = |problems: Vec<Problem>| {
        SpecError::Invalid(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let (min, max) = (consumer.spec.scaling.min_replicas, consumer.spec.scaling.max_replicas);
    // The CRD's schema and rules, which nobody has checked here.
    if !(0..=1000).contains(&min) || !(1..=1000).contains(&max) || min > max {
        let problem = "spec.scaling: minReplicas must be 0 to maxReplicas, and maxReplicas 1 to 1000";
        return Err(SpecError::Invalid(problem.into()));
    }
    validate(&Arc::new(consumer)).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "
apiVersion: millrace.dev/v1alpha1
kind: QueueConsumer
metadata: { name: sdxl }
spec:
  queue: { url: https://sqs.us-east-1.amazonaws.com/123456789012/prompts }
  model: { task: Echo }
  output: { bucket: images }
";

    #[test]
    fn a_file_for_kubectl_is_enough() {
        let spec = parse(SPEC).unwrap();
        assert_eq!((spec.name().as_str(), spec.spec().scaling.max_replicas), ("sdxl", 10));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, wanted) in [
            ("kind: Pod", "it is no QueueConsumer"),
            (
                &SPEC.replace("https://sqs.us-east-1.amazonaws.com/123456789012/prompts", "http://x/1/q"),
                "spec.queue.region",
            ),
            (
                &format!("{SPEC}  scaling: {{ minReplicas: 5, maxReplicas: 2 }}\n"),
                "minReplicas must be 0 to maxReplicas",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
