//! Specs that cannot work: the API server refuses what schema and rules can tell, with field and reason; the operator
//! says the rest in conditions. Each refused manifest has an accepted one beside it.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use millrace_api::QueueConsumer;
use millrace_e2e::{Lab, Manifest, scenario};
use serde_json::{Value, json};

/// Pointer into the manifest, a value that is accepted, one that is refused, the field that is named, and why.
type Case = (&'static str, Value, Value, &'static str, &'static str);

#[tokio::test]
async fn the_api_server_names_field_and_reason() {
    scenario("invalid-specs", async |lab| {
        refused_by_the_api_server(lab).await?;
        the_queue_never_changes(lab).await?;
        refused_by_the_operator(lab).await
    })
    .await;
}

/// Rules that cross fields or look into a value.
fn rules() -> Vec<Case> {
    let s3 = json!({ "s3": { "uri": "s3://models/tiny/" } });
    let two = json!({ "s3": { "uri": "s3://models/tiny/" }, "huggingFace": { "repository": "a/b" } });
    let claim = |path: &str| json!({ "persistentVolumeClaim": { "claimName": "models", "path": path } });
    let image = |path: &str| json!({ "image": { "reference": "registry/sdxl:1", "path": path } });
    let picture = |source: Value| json!({ "task": "TextToImage", "source": source });
    let one_of = "exactly one of huggingFace, s3, persistentVolumeClaim, image";
    let one_target = "exactly one of queueDelaySeconds, messagesPerReplica";
    vec![
        // the API server gives a rule of the whole object no path; its message begins with the field
        ("/metadata/name", json!("sdxl"), json!("sd.xl"), "<nil>", "metadata.name must be at most 63 characters"),
        ("/metadata/name", json!("n".repeat(63)), json!("n".repeat(64)), "<nil>", "metadata.name must be at most 63"),
        (
            "/spec/queue/mapping",
            json!({ "jobId": "attribute:job_id", "input": "/payload/prompt_spec" }),
            json!({ "jobId": "job_id" }),
            "spec.queue.mapping.jobId",
            "should match",
        ),
        (
            "/spec/queue/retry",
            json!({ "initialSeconds": 5, "maxSeconds": 5 }),
            json!({ "initialSeconds": 6, "maxSeconds": 5 }),
            "spec.queue.retry",
            "retry.initialSeconds must not be more",
        ),
        (
            "/spec/model",
            picture(s3.clone()),
            json!({ "task": "TextToImage" }),
            "spec.model",
            "model.source is required",
        ),
        (
            "/spec/model",
            json!({ "task": "Http", "server": { "path": "/run", "container": { "image": "server:1" } } }),
            json!({ "task": "Http", "source": s3.clone() }),
            "spec.model",
            "model.server must be set exactly where model.task is Http",
        ),
        (
            "/spec/model",
            json!({ "task": "Http", "server": { "preset": "OpenAiChat", "container": { "image": "vllm:1" } } }),
            json!({ "task": "Http", "server": { "container": { "image": "server:1" } } }),
            "spec.model.server",
            "model.server.path is required",
        ),
        (
            "/spec/model",
            json!({ "task": "Http", "server": { "path": "/run", "container": { "image": "server:1" } } }),
            json!({ "task": "Http", "server": { "path": "/run" } }),
            "spec.model.server",
            "model.server.container is required",
        ),
        (
            "/spec/model",
            json!({ "task": "Echo" }),
            json!({ "task": "Echo", "source": s3 }),
            "spec.model",
            "model.source must not be set",
        ),
        ("/spec/model/task", json!("Echo"), json!("Custom"), "<nil>", "worker.image is required for task Custom"),
        ("/spec/model", picture(s3), picture(two), "spec.model.source", one_of),
        (
            "/spec/model",
            picture(json!({ "huggingFace": { "repository": "a/b" } })),
            picture(json!({})),
            "spec.model.source",
            one_of,
        ),
        (
            "/spec/model",
            picture(claim("a/b")),
            picture(claim("a/../b")),
            "spec.model.source.persistentVolumeClaim.path",
            "path must be relative",
        ),
        (
            "/spec/model",
            picture(image("a/b")),
            picture(image("/a")),
            "spec.model.source.image.path",
            "path must be relative",
        ),
        ("/spec/output/prefix", json!("out/"), json!("/out/"), "spec.output.prefix", "prefix must not begin with '/'"),
        (
            "/spec/output/keyTemplate",
            json!("{message_id}.{extension}"),
            json!("image.{extension}"),
            "spec.output.keyTemplate",
            "must contain {job_id} or {message_id}",
        ),
        (
            "/spec/output/keyTemplate",
            json!("a/{job_id}"),
            json!("/{job_id}"),
            "spec.output.keyTemplate",
            "must not begin with '/'",
        ),
        (
            "/spec/output/keyTemplate",
            json!("{job_id}.json"),
            json!("{job_id}.record.json"),
            "spec.output.keyTemplate",
            "must not end in .record.json",
        ),
        (
            "/spec/worker/updateStrategy",
            json!({ "maxSurge": 1, "maxUnavailable": 0 }),
            json!({ "maxSurge": 0, "maxUnavailable": "0%" }),
            "spec.worker.updateStrategy",
            "must not both be 0",
        ),
        (
            "/spec/scaling",
            json!({ "minReplicas": 10 }),
            json!({ "minReplicas": 11 }),
            "spec.scaling",
            "scaling.minReplicas must not be more",
        ),
        (
            "/spec/scaling/target",
            json!({ "messagesPerReplica": 5 }),
            json!({ "messagesPerReplica": 5, "queueDelaySeconds": 60 }),
            "spec.scaling.target",
            one_target,
        ),
        ("/spec/scaling/target", json!({ "queueDelaySeconds": 5 }), json!({}), "spec.scaling.target", one_target),
    ]
}

/// Bounds, words and patterns of single fields, and what must be there.
fn schema() -> Vec<Case> {
    let bound = |pointer, good: i64, bad: i64, field, words| (pointer, json!(good), json!(bad), field, words);
    let hub = |field: &str, value: &str| {
        let mut source = json!({ "repository": "a/b" });
        source[field] = json!(value);
        json!({ "task": "TextToImage", "source": { "huggingFace": source } })
    };
    let image = |field: &str, value: &str| {
        let mut source = json!({ "reference": "sdxl:1" });
        source[field] = json!(value);
        json!({ "task": "TextToImage", "source": { "image": source } })
    };
    let low = "should be greater than or equal to";
    let high = "should be less than or equal to";
    let word = "Unsupported value";
    let form = "should match";
    let server = |field: &str, value: Value| {
        let mut server = json!({ "path": "/run", "container": { "image": "server:1" } });
        server[field] = value;
        json!({ "task": "Http", "server": server })
    };
    let header = |name: &str| json!([{ "name": name, "value": "$(TOKEN)" }]);
    vec![
        ("/spec/model", server("port", json!(1)), server("port", json!(0)), "spec.model.server.port", low),
        ("/spec/model", server("path", json!("/a?b")), server("path", json!("a")), "spec.model.server.path", form),
        (
            "/spec/model",
            server("headers", header("X-Api-Key")),
            server("headers", header("X Api Key")),
            "spec.model.server.headers[0].name",
            form,
        ),
        (
            "/spec/model",
            server("response", json!({ "value": "" })),
            server("response", json!({ "value": "choices" })),
            "spec.model.server.response.value",
            form,
        ),
        ("/spec/queue", json!({ "url": "https://h/1/q" }), json!({}), "spec.queue.url", "Required"),
        ("/spec/model", json!({ "task": "Echo" }), json!({}), "spec.model.task", "Required"),
        ("/spec/output", json!({ "bucket": "images" }), json!({}), "spec.output.bucket", "Required"),
        ("/spec/queue/url", json!("http://h/1/q"), json!("sqs://h/1/q"), "spec.queue.url", form),
        ("/spec/queue/region", json!("eu-west-1"), json!("EU"), "spec.queue.region", form),
        ("/spec/queue/endpoint", json!("http://h:1/"), json!("http://h:1/path"), "spec.queue.endpoint", form),
        bound("/spec/queue/visibilityTimeoutSeconds", 10, 9, "spec.queue.visibilityTimeoutSeconds", low),
        bound("/spec/queue/visibilityTimeoutSeconds", 3600, 3601, "spec.queue.visibilityTimeoutSeconds", high),
        ("/spec/queue/bodyFormat", json!("Json"), json!("json"), "spec.queue.bodyFormat", word),
        ("/spec/queue/invalidInput", json!("Delete"), json!("Ignore"), "spec.queue.invalidInput", word),
        bound("/spec/queue/maxReceiveCount", 1, 0, "spec.queue.maxReceiveCount", low),
        (
            "/spec/queue/retry",
            json!({ "maxSeconds": 43200 }),
            json!({ "maxSeconds": 43201 }),
            "spec.queue.retry.maxSeconds",
            high,
        ),
        ("/spec/model/task", json!("Echo"), json!("Dance"), "spec.model.task", word),
        ("/spec/model/device", json!("Cpu"), json!("TPU"), "spec.model.device", word),
        ("/spec/model/precision", json!("BF16"), json!("F8"), "spec.model.precision", word),
        (
            "/spec/model",
            hub("revision", "main"),
            hub("repository", "no-owner"),
            "spec.model.source.huggingFace.repository",
            form,
        ),
        ("/spec/model", hub("variant", "fp16"), hub("variant", "fp.16"), "spec.model.source.huggingFace.variant", form),
        (
            "/spec/model",
            json!({ "task": "TextToImage", "source": { "s3": { "uri": "s3://models" } } }),
            json!({ "task": "TextToImage", "source": { "s3": { "uri": "models/tiny" } } }),
            "spec.model.source.s3.uri",
            form,
        ),
        (
            "/spec/model",
            image("reference", "registry:5000/sdxl@sha256:00"),
            image("reference", "registry/sdxl 1"),
            "spec.model.source.image.reference",
            form,
        ),
        (
            "/spec/model",
            image("pullPolicy", "Never"),
            image("pullPolicy", "Sometimes"),
            "spec.model.source.image.pullPolicy",
            word,
        ),
        (
            "/spec/model/parameters",
            json!({ "milliseconds": 1.5 }),
            json!([]),
            "spec.model.parameters",
            "must be of type object",
        ),
        ("/spec/model/batch", json!({ "maxSize": 1024 }), json!({ "maxSize": 0 }), "spec.model.batch.maxSize", low),
        (
            "/spec/model/batch",
            json!({ "maxWaitMilliseconds": 0 }),
            json!({ "maxWaitMilliseconds": 60001 }),
            "spec.model.batch.maxWaitMilliseconds",
            high,
        ),
        (
            "/spec/model/cache",
            json!({ "emptyDir": { "sizeLimit": "40Gi" } }),
            json!({ "emptyDir": { "sizeLimit": "40 GB" } }),
            "spec.model.cache.emptyDir.sizeLimit",
            form,
        ),
        ("/spec/output/bucket", json!("my-images"), json!("My_Images"), "spec.output.bucket", form),
        (
            "/spec/output/keyTemplate",
            json!("{date}/{job_id}"),
            json!("{job_id}{colour}"),
            "spec.output.keyTemplate",
            form,
        ),
        ("/spec/worker/gpu", json!({ "count": 16 }), json!({ "count": 17 }), "spec.worker.gpu.count", high),
        (
            "/spec/worker/gpu",
            json!({ "resourceName": "amd.com/gpu" }),
            json!({ "resourceName": "gpu" }),
            "spec.worker.gpu.resourceName",
            form,
        ),
        ("/spec/worker/imagePullPolicy", json!("Never"), json!("Sometimes"), "spec.worker.imagePullPolicy", word),
        (
            "/spec/worker/resources",
            json!({ "requests": { "cpu": 2, "memory": "1.5Gi" } }),
            json!({ "requests": { "memory": "much" } }),
            "spec.worker.resources.requests.memory",
            form,
        ),
        bound("/spec/worker/terminationGracePeriodSeconds", 30, 29, "spec.worker.terminationGracePeriodSeconds", low),
        (
            "/spec/worker/updateStrategy",
            json!({ "maxSurge": "10%" }),
            json!({ "maxSurge": "10" }),
            "spec.worker.updateStrategy.maxSurge",
            form,
        ),
        bound("/spec/scaling/minReplicas", 0, -1, "spec.scaling.minReplicas", low),
        ("/spec/scaling/maxReplicas", json!(1000), json!(1001), "spec.scaling.maxReplicas", high),
        bound("/spec/scaling/scaleToZeroAfterSeconds", 60, 59, "spec.scaling.scaleToZeroAfterSeconds", low),
        bound(
            "/spec/scaling/scaleDownStabilizationSeconds",
            3600,
            3601,
            "spec.scaling.scaleDownStabilizationSeconds",
            high,
        ),
        (
            "/spec/scaling/target",
            json!({ "messagesPerReplica": 1 }),
            json!({ "messagesPerReplica": 0 }),
            "spec.scaling.target.messagesPerReplica",
            low,
        ),
        (
            "/spec/scaling/target",
            json!({ "queueDelaySeconds": 1 }),
            json!({ "queueDelaySeconds": 0 }),
            "spec.scaling.target.queueDelaySeconds",
            low,
        ),
    ]
}

async fn refused_by_the_api_server(lab: &Lab) -> Result<()> {
    let mut wrong = Vec::new();
    for (pointer, good, bad, field, words) in rules().into_iter().chain(schema()) {
        if let Err(error) = lab.dry_run(&minimal(lab).with(pointer, good.clone())).await {
            wrong.push(format!("{pointer} = {good} was refused: {error}"));
        }
        let Err(kube::Error::Api(refusal)) = lab.dry_run(&minimal(lab).with(pointer, bad.clone())).await else {
            wrong.push(format!("{pointer} = {bad} was accepted"));
            continue;
        };
        let causes = refusal.details.map(|details| details.causes).unwrap_or_default();
        if !causes.iter().any(|cause| cause.field == field && cause.message.contains(words)) {
            wrong.push(format!("{pointer} = {bad}: no cause of {field} says {words:?}: {causes:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // a typing error, and a field of another version
    for (pointer, field) in
        [("/spec/scaling/minReplica", "spec.scaling.minReplica"), ("/spec/queue/roleArn", "spec.queue.roleArn")]
    {
        let error = lab.dry_run(&minimal(lab).with(pointer, json!("x"))).await.err().context("it was accepted")?;
        ensure!(error.to_string().contains(&format!("unknown field \"{field}\"")), "{pointer}: {error}");
    }
    Ok(())
}

async fn the_queue_never_changes(lab: &Lab) -> Result<()> {
    // its queue does not exist: nothing starts
    let consumer = lab.apply(&minimal(lab)).await?;
    let api = lab.api::<QueueConsumer>();
    let change = async |url: &str| {
        let patch = json!({ "spec": { "queue": { "url": url } } });
        api.patch("sdxl", &PatchParams::default().dry_run(), &Patch::Merge(patch)).await
    };
    let url = consumer.get().await?.spec.queue.url;
    change(&url).await.context("the same URL must be accepted")?;
    let error = change(&format!("{url}-2")).await.err().context("another URL was accepted")?;
    let words = error.to_string();
    ensure!(words.contains("spec.queue.url") && words.contains("queue.url is immutable"), "{words}");
    consumer.delete().await
}

/// What neither schema nor rules can tell: all of it at once, each with its field.
async fn refused_by_the_operator(lab: &Lab) -> Result<()> {
    let manifest = minimal(lab)
        .with("/metadata/name", json!("refused"))
        .with("/spec/queue/region", Value::Null)
        .with("/spec/model/device", json!("Cuda"))
        .with(
            "/spec/worker",
            json!({
                "gpu": { "count": 0 },
                "env": [{ "name": "MILLRACE_GPU_COUNT", "value": "1" }, { "name": "A" }, { "name": "A" }],
                "podLabels": { "app.kubernetes.io/name": "mine" },
                "podAnnotations": { "millrace.dev/config-hash": "mine" },
                "affinity": { "nodeAffinty": {} },
                "serviceAccountName": "mine",
                "serviceAccountAnnotations": { "a": "b" },
            }),
        );
    let consumer = lab.apply(&manifest).await?;
    let fields = [
        "spec.queue.region",
        "spec.model.device",
        "spec.worker.env[0].name",
        "spec.worker.env[2].name",
        "spec.worker.podLabels[app.kubernetes.io/name]",
        "spec.worker.podAnnotations[millrace.dev/config-hash]",
        "spec.worker.affinity.nodeAffinty",
        "spec.worker.serviceAccountAnnotations",
    ];
    consumer.await_condition("Ready", "False", "InvalidSpec", &fields).await?;
    consumer.await_condition("Stalled", "True", "InvalidSpec", &fields).await?;
    consumer.await_condition("ScalingActive", "False", "InvalidSpec", &[]).await?;
    consumer.await_event("InvalidSpec: ", fields[0]).await?;
    ensure!(lab.api::<Deployment>().get_opt("refused").await?.is_none(), "a Deployment was made all the same");

    // mended, it is the queue's turn
    let queue = lab.queue("mended").await?;
    ensure!(consumer.get().await?.spec.queue.url == queue.url(), "the manifest names another queue");
    let worker = json!({
        "env": null, "podLabels": null, "podAnnotations": null, "affinity": null,
        "serviceAccountName": null, "serviceAccountAnnotations": null,
    });
    let spec = json!({ "queue": { "region": "us-east-1" }, "model": { "device": "Cpu" }, "worker": worker });
    consumer.change(spec).await?;
    consumer.await_condition("Ready", "True", "ScaledToZero", &[]).await?;
    let conditions = consumer.status().await?.conditions;
    ensure!(conditions.iter().all(|c| c.type_ != "Stalled"), "{conditions:?}");
    Ok(())
}

/// A valid consumer of task Echo with all defaults for scaling, whose queue does not exist yet.
fn minimal(lab: &Lab) -> Manifest {
    Manifest::echo(lab, "sdxl", &lab.missing_queue("mended"), 0).with("/spec/scaling", json!({}))
}
