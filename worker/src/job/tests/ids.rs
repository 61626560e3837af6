//! Whatever comes, nothing panics, and every id is safe for a key.

use proptest::prelude::*;

use super::*;

/// A body of anything, or one of a known form with something in it that does not belong there.
fn bodies() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        include_str!("../../../tests/bodies/s3_two_records.json"),
        include_str!("../../../tests/bodies/eventbridge_created.json"),
        include_str!("../../../tests/bodies/sns_s3.json"),
        include_str!("../../../tests/bodies/sns_text.json"),
        include_str!("../../../tests/bodies/celery_unencoded.json"),
        include_str!("../../../tests/bodies/celery_args.txt"),
        include_str!("../../../tests/bodies/extended.json"),
        include_str!("../../../tests/bodies/fan_out_task.json"),
        include_str!("../../../tests/bodies/job_service.json"),
        r#"{"job_id":"j","input":{"prompt":"x"},"output":{"key":"k"},"priority":1,"deadline":"2026-11-23T10:00:00Z"}"#,
    ]);
    let mangled = (known, any::<prop::sample::Index>(), 0..40_usize, ".{0,40}").prop_map(|(body, at, cut, text)| {
        let mut chars: Vec<char> = body.chars().collect();
        let start = at.index(chars.len());
        let end = (start + cut).min(chars.len());
        chars.splice(start..end, text.chars());
        chars.into_iter().collect()
    });
    prop_oneof![".{0,200}", mangled]
}

fn mappings() -> impl Strategy<Value = Value> {
    let place = prop_oneof![
        Just(Value::Null),
        Just(json!("attribute:any")),
        Just(json!("/payload/prompt_spec")),
        "(/[a-z_~/01]{0,12}){1,4}".prop_map(Value::from),
    ];
    (place.clone(), place.clone(), place.clone(), place).prop_map(|(job_id, input, route, priority)| {
        json!({ "jobId": job_id, "input": input, "route": route, "priority": priority })
    })
}

proptest! {
    #[test]
    fn no_body_panics_and_every_id_is_safe_for_a_key(
        body in bodies(), id in proptest::option::of(".{1,300}"), mapping in mappings(), attribute in ".{1,20}",
    ) {
        let allow = json!({ "inputBuckets": ["photos-bodies", "amzn-s3-demo-bucket", "amzn-s3-demo-bucket1"] });
        let mut message = with_attributes(&body, &[("any", &attribute)]);
        message.attributes.extend(id.map(|id| (JOB_ID_ATTRIBUTE.to_owned(), id)));
        for queue in [json!({ "allow": allow }), json!({ "allow": allow, "mapping": mapping })] {
            let Ok(forms) = forms(&queue) else { continue };
            for decoded in [forms.decode(&message), forms.decode_body(&message, &body)] {
                let heads = match decoded {
                    Decoded::Jobs(jobs) => {
                        prop_assert!(!jobs.is_empty());
                        jobs.into_iter().map(|job| job.head).collect()
                    }
                    Decoded::Rejected(rejected) => vec![rejected.head],
                    Decoded::Elsewhere(_) | Decoded::Nothing(_) => vec![],
                };
                for head in heads {
                    let safe = |c: char| c.is_ascii_alphanumeric() || "._:-%".contains(c);
                    let is_safe = !head.id.is_empty() && head.id.len() <= millrace_api::MAX_JOB_ID && head.id.chars().all(safe);
                    prop_assert!(is_safe, "{}", head.id);
                    prop_assert_eq!(head.input_sha256.len(), 64);
                    // sent on with its raw id, a message is the same job
                    let again = with_attributes("a cat", &[(JOB_ID_ATTRIBUTE, &head.raw_id)]);
                    prop_assert_eq!(&job(open().decode(&again)).head.id, &head.id);
                }
            }
        }
    }
}
