//! /livez, /readyz, /state, /drain and /metrics: their shapes, and that no label of a metric grows with the work.

use aws_lc_rs::signature::Ed25519KeyPair;
use serde_json::{Value, json};

use crate::lab;
use crate::program::{self, Worker};

#[tokio::test]
async fn probes_and_state_are_as_documented() {
    lab::with("faces", async |lab| {
        let mut worker = program::start(lab, "a", json!({ "model": { "batch": { "maxSize": 3 } } }));
        worker.until_ready().await;
        for probe in ["/livez", "/readyz"] {
            let answer = worker.get(probe).await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{probe}");
        }
        assert_eq!(worker.get("/").await.unwrap().status, 404);

        worker.until_state("the first poll", |state| state.receiving == 1).await;
        let idle = state(&worker).await;
        let nothing = json!({
            "worker": "a", "ready": true, "draining": false, "capacity": 3, "busy": 0, "jobs": [],
            "completed": 0, "failed": 0, "problems": [], "activity": "Idle", "receiving": 1,
        });
        assert_eq!(idle, nothing);

        let quick = lab.send(json!({ "job_id": "quick", "input": "x" })).await;
        lab.record("quick").await;
        let slow = lab.send(json!({ "job_id": "slow", "input": { "milliseconds": 3_600_000 } })).await;
        worker.until_state("the slow job", |s| s.busy == 1 && s.jobs[0].job_id == "slow" && s.completed == 1).await;
        let busy = state(&worker).await;
        let job = &busy["jobs"][0];
        assert_eq!((&job["job_id"], &job["message_id"]), (&json!("slow"), &json!(slow)));
        assert_eq!(busy["oldest_sent_at"], job["sent_at"]);
        assert_eq!((&busy["activity"], &busy["last_received"]["sent_at"]), (&json!("Busy"), &job["sent_at"]));
        let order = ["sent_at", "started_at", "lease_expires_at"].map(|k| job[k].as_str().unwrap().to_owned());
        assert!(order[1] < order[2], "{order:?}");
        for seconds in ["mean", "p95"] {
            assert!(busy["service_seconds"][seconds].as_f64().unwrap() >= 0.0, "{busy}");
        }
        assert_ne!(quick, slow);

        let known = worker.get("/state?unless=Idle&wait=25").await.unwrap();
        assert_eq!((known.status, known.body.contains("Busy")), (200, true), "it differs, so nothing is waited for");
        let wrong = worker.get("/state?unless=Idle&wait=26").await.unwrap();
        assert_eq!((wrong.status, wrong.body.contains("from 1 to 25")), (400, true), "{wrong:?}");
        let nobody = worker.drain("POST", &Ed25519KeyPair::generate().unwrap()).await;
        assert_eq!((nobody.status, nobody.body.as_str()), (403, "drain.publicKey is not configured\n"));
    })
    .await;
}

async fn state(worker: &Worker) -> Value {
    let answer = worker.get("/state").await.unwrap();
    assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    serde_json::from_str(&answer.body).unwrap()
}

/// Every label and all values that it may ever have.
const LABELS: &[(&str, &[&str])] = &[
    ("namespace", &["tests"]),
    ("consumer", &["echo"]),
    ("task", &["Echo"]),
    (
        "outcome",
        &["ok", "error", "completed", "failed", "expired", "already_done", "returned", "lease_lost", "nothing"],
    ),
    (
        "phase",
        &[
            "queued",
            "waited",
            "batch",
            "inference",
            "upload",
            "commit",
            "ack",
            "total",
            "configure",
            "reach",
            "load",
            "warm_up",
        ],
    ),
    ("reason", &["told", "expired"]),
    ("channel", &["reply", "callback"]),
    ("state", &["busy", "idle", "starting"]),
    (
        "operation",
        &[
            "ReceiveMessage",
            "ChangeMessageVisibilityBatch",
            "DeleteMessageBatch",
            "SendMessage",
            "GetQueueAttributes",
            "PutObject",
            "GetObject",
            "HeadObject",
        ],
    ),
];

#[tokio::test]
async fn labels_of_metrics_are_bounded() {
    lab::with("metrics", async |lab| {
        let mut worker = program::start(lab, "a", json!({}));
        // one of each ending
        let good = json!({ "job_id": "good", "input": "x" });
        lab.send(&good).await;
        lab.record("good").await;
        lab.send(&good).await;
        lab.send(r#"{"broken"#).await;
        lab.take(&lab.dead_letters()).await;
        lab.drained().await;
        worker.until_state("nothing held", |state| state.busy == 0).await;

        let page = worker.get("/metrics").await.unwrap();
        assert!(page.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", page.head);
        assert!(page.body.ends_with("# EOF\n"), "{}", page.body);
        let series: Vec<_> = page.body.lines().filter(|line| !line.starts_with('#')).collect();
        for line in &series {
            assert!(line.starts_with("millrace_"), "{line}");
            let labels = labels(line);
            let of_every_series = labels.iter().filter(|(name, _)| ["namespace", "consumer", "task"].contains(name));
            assert_eq!(of_every_series.count(), 3, "{line}");
            for (name, value) in labels {
                let known = LABELS.iter().any(|(label, values)| *label == name && values.contains(&value));
                assert!(known || name == "le", "{name}={value:?} in {line}");
            }
        }
        for name in ["worker_jobs_total", "job_phase_seconds_bucket", "gpu_seconds_total", "worker_aws_requests_total"]
        {
            let is = |line: &&str| line.strip_prefix("millrace_").is_some_and(|l| l.starts_with(&format!("{name}{{")));
            assert!(series.iter().any(is), "no {name}: {}", page.body);
        }
    })
    .await;
}

/// A series' labels. Our values hold neither commas nor quotes.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let (_, rest) = line.split_once('{').unwrap();
    let (labels, _) = rest.rsplit_once('}').unwrap();
    let pairs = labels.split(',').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name, value.trim_matches('"'))).collect()
}
