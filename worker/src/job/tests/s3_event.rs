//! S3 events, plain and through EventBridge; what comes through SNS is in `wrapped`.

use super::*;

const TWO: &str = include_str!("../../../tests/bodies/s3_two_records.json");
const CREATED: &str = include_str!("../../../tests/bodies/s3_created.json");

fn jobs(body: &str) -> Vec<Job> {
    match auto(body) {
        Decoded::Jobs(jobs) => jobs,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_created_object_is_a_job() {
    let seen: Vec<_> = [
        CREATED,
        include_str!("../../../tests/bodies/s3_created_version.json"),
        TWO,
        include_str!("../../../tests/bodies/eventbridge_created.json"),
    ]
    .into_iter()
    .flat_map(jobs)
    .map(|job| {
        assert_eq!((job.head.form, job.head.id_is_producers), (Form::S3Event, true));
        let object = job.object().unwrap().clone();
        let which = object.version.clone().or(object.etag).unwrap();
        (object.bucket, object.key, which, object.size.unwrap(), job.head.id)
    })
    .collect();
    let wanted = [
        (
            "photos-bodies",
            "in/a lighthouse+ü.txt",
            "b160346b465121e8b9af79c0b9de65d8",
            21,
            "photos-bodies:in%2Fa%20lighthouse%2B%C3%BC.txt:",
        ),
        ("photos-bodies", "in/v.txt", "AaIHM4eIPMYTJVs954AAHDI0Xs1AVpaN", 1, "photos-bodies:in%2Fv.txt:"),
        (
            "amzn-s3-demo-bucket",
            "HappyFace.jpg",
            "096fKKXTRTtl3on89fVO.nfljtsv6qko",
            1024,
            "amzn-s3-demo-bucket:HappyFace.jpg:",
        ),
        (
            "amzn-s3-demo-bucket",
            "in/red flower+1.txt",
            "b57f9512698f4b09e608f4f2a65852e5",
            21,
            "amzn-s3-demo-bucket:in%2Fred%20flower%2B1.txt:",
        ),
        (
            "amzn-s3-demo-bucket1",
            "in/a+b%20c.txt",
            "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
            5,
            "amzn-s3-demo-bucket1:in%2Fa%2Bb%2520c.txt:",
        ),
    ]
    .map(|(bucket, key, which, size, id): (&str, &str, &str, u64, &str)| {
        (bucket.to_owned(), key.to_owned(), which.to_owned(), size, format!("{id}{which}"))
    });
    assert_eq!(seen, wanted);
}

#[test]
fn the_record_tells_which_object_it_was() {
    let head = jobs(TWO).remove(0).head;
    let wanted = json!({
        "bucket": "amzn-s3-demo-bucket", "key": "HappyFace.jpg", "version": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
        "etag": "d41d8cd98f00b204e9800998ecf8427e", "size": 1024, "event": "ObjectCreated:Put",
        "event_time": "1970-01-01T00:00:00.000Z",
    });
    assert_eq!(Value::Object(head.metadata), wanted);
}

#[test]
fn the_same_content_is_the_same_job_and_other_content_is_another() {
    let of = |body: &str| jobs(body).remove(0).head;
    let again = CREATED.replace("0055AED6DCD90281E5", "0055AED6DCD90281E6").replace("2026-11-23", "2026-11-24");
    let other = CREATED.replace("b160346b", "c160346b");
    let (first, again, other) = (of(CREATED), of(&again), of(&other));
    assert_eq!((&first.id, &first.input_sha256), (&again.id, &again.input_sha256));
    assert!(first.id != other.id && first.input_sha256 != other.input_sha256);
}

#[test]
fn without_version_and_etag_the_sequencer_tells_one_put_from_another() {
    let bare = CREATED.replace("eTag", "tag");
    assert!(jobs(&bare).remove(0).head.id.ends_with(":0055AED6DCD90281E5"));
}

#[test]
fn a_long_key_gives_a_short_id_of_its_own() {
    let of = |key: &str| jobs(&CREATED.replace("in/a%20lighthouse%2B%C3%BC.txt", key)).remove(0).head;
    let (one, other) = (of(&format!("{}1.txt", "ü/".repeat(300))), of(&format!("{}2.txt", "ü/".repeat(300))));
    for head in [&one, &other] {
        assert!(head.id.len() <= 256 && head.id.starts_with("photos-bodies:%C3%BC%2F"), "{}", head.id);
    }
    assert_ne!(one.id, other.id);
    assert_eq!(one.id, of(&format!("{}1.txt", "ü/".repeat(300))).id);
}

#[test]
fn what_creates_nothing_is_nothing() {
    let folder = CREATED.replace("in/a%20lighthouse%2B%C3%BC.txt", "in/").replace("\"size\": 21", "\"size\": 0");
    let record =
        CREATED.replace("photos-bodies", "images").replace("in/a%20lighthouse%2B%C3%BC.txt", "out/j.record.json");
    let table = [
        (record.as_str(), "an S3 event that tells of no new object"),
        (include_str!("../../../tests/bodies/s3_test.json"), "S3's test of a notification"),
        (include_str!("../../../tests/bodies/s3_removed.json"), "an S3 event that tells of no new object"),
        (include_str!("../../../tests/bodies/eventbridge_deleted.json"), "an S3 event that tells of no new object"),
        (folder.as_str(), "an S3 event that tells of no new object"),
    ];
    for (body, wanted) in table {
        match auto(body) {
            Decoded::Nothing(why) => assert_eq!(why, wanted, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn an_object_of_the_consumers_own_output_is_refused() {
    let own = CREATED.replace("photos-bodies", "images").replace("in/a%20", "out/a%20");
    let rejected = refused(auto(&own));
    let wanted = "Records[0].s3.object.key: s3://images/out/a lighthouse+ü.txt is under this consumer's own output, so \
                  each result would be a new job; limit the bucket's notification to another prefix, or change output.prefix";
    assert_eq!((rejected.code, rejected.error.to_string().as_str()), ("OutputLoop", wanted));
    assert_eq!((rejected.head.id.as_str(), rejected.head.form), ("m-1", Form::S3Event));
    // the bucket alone is no loop
    assert_eq!(jobs(&CREATED.replace("photos-bodies", "images")).len(), 1);
}

#[test]
fn each_malformed_event_names_its_field() {
    let table = [
        (
            CREATED.replace("photos-bodies", "theirs"),
            "Records[0].s3.bucket.name: theirs is not allowed: it is not in queue.allow.inputBuckets",
        ),
        (CREATED.replace("\"name\"", "\"nam\""), "Records[0].s3.bucket.name: is missing"),
        (CREATED.replace("in/a%20lighthouse%2B%C3%BC.txt", ""), "Records[0].s3.object.key: is empty"),
        (CREATED.replace("%C3%BC", "%C3"), "Records[0].s3.object.key: is not UTF-8 once decoded"),
        (
            CREATED.replace("\"in/a%20lighthouse%2B%C3%BC.txt\"", "7"),
            "Records[0].s3.object.key: must be a text, is a number",
        ),
        (TWO.replace("in/red+flower%2B1.txt", ""), "Records[1].s3.object.key: is empty"),
        (
            include_str!("../../../tests/bodies/eventbridge_created.json").replace("\"key\"", "\"ky\""),
            "detail.object.key: is missing",
        ),
    ];
    for (body, wanted) in table {
        let rejected = refused(auto(&body));
        assert_eq!((rejected.error.to_string().as_str(), rejected.code), (wanted, "InvalidInput"));
    }
    // somebody's own list of records is no event
    assert_eq!(job(auto(r#"{"Records":[{"s3":{}}]}"#)).head.form, Form::Object);
}

#[test]
fn a_mapped_id_names_one_object_and_never_two() {
    let allow = json!({ "inputBuckets": ["photos-bodies", "amzn-s3-demo-bucket"] });
    let forms = forms(&json!({ "mapping": { "jobId": "/Records/0/s3/object/sequencer" }, "allow": allow })).unwrap();
    assert_eq!(job(forms.decode(&message(CREATED))).head.id, "0055AED6DCD90281E5");
    let error = refused(forms.decode(&message(TWO))).error.to_string();
    assert_eq!(error, "Records: queue.mapping.jobId names one job, and this event has 2");
}

#[test]
fn the_objects_content_is_read_as_a_body_would_be() {
    let of = |format: &str, content: &[u8]| {
        let queue = json!({ "bodyFormat": format, "allow": { "inputBuckets": ["photos-bodies"] } });
        // an event comes as JSON; what it points to is read by the format
        let event = job(forms(&queue).unwrap().decode(&message(CREATED)));
        let hash = event.head.input_sha256.clone();
        assert!(event.requests(&crate::model::echo::Echo::load, &Map::new()).is_err());
        event.with_content(content, None).map(|job| {
            assert_eq!((job.object(), &job.head.input_sha256), (None, &hash));
            inputs(&job).to_vec()
        })
    };
    assert_eq!(of("Auto", b"a lighthouse at night").unwrap(), [text("a lighthouse at night")]);
    assert_eq!(
        of("Auto", b"{\"prompt\":\"x\",\"job_id\":\"j\"}").unwrap(),
        [object(json!({"prompt": "x", "job_id": "j"}))]
    );
    let place = "s3://photos-bodies/in/a lighthouse+ü.txt";
    for (format, content, wanted) in [
        ("Auto", &b"\xff\xfe"[..], " is not UTF-8 text"),
        ("Auto", b" ", ": the body is blank: send a text or a JSON object"),
        ("Json", b"a cat", ": the body is not JSON: expected value at line 1 column 1"),
    ] {
        assert_eq!(of(format, content).unwrap_err().to_string(), format!("{place}{wanted}"));
    }
}

#[test]
fn a_task_that_takes_files_has_the_object_s_bytes() {
    let event = job(open().decode(&message(CREATED)));
    let read = event.with_content(b"\xff\xfe", Some("file")).unwrap();
    assert_eq!(inputs(&read), [object(json!({ "file": "//4=" }))]);
}
