//! Objects: conditions, reads, listings, and what the SDK sends.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use millrace_aws_model::{ConditionalWrites, Event, Put};

use crate::lab::{BUCKET, Lab, code};

#[tokio::test]
async fn a_conditional_put_creates_or_replaces_or_neither() {
    let lab = Lab::new().await;
    assert_eq!(lab.replace("k", "x", "\"none\"").await.unwrap_err(), "NoSuchKey");
    let first = lab.create("k", "1").await.unwrap();
    assert_eq!(lab.create("k", "x").await.unwrap_err(), "PreconditionFailed");
    assert_eq!(lab.replace("k", "x", "\"none\"").await.unwrap_err(), "PreconditionFailed");
    let second = lab.replace("k", "2", &first).await.unwrap();
    assert_eq!(lab.replace("k", "x", &first).await.unwrap_err(), "PreconditionFailed");
    assert_eq!(lab.content("k").as_deref(), Some("2"));
    let object = lab.model.objects(BUCKET).unwrap().remove("k").unwrap();
    assert_eq!((object.puts, &object.etag), (2, &second));
    let puts = lab.model.journal().into_iter().filter_map(|entry| match entry.event {
        Event::Put { key, etag, put, .. } => Some((key.to_string(), etag, put)),
        _ => None,
    });
    assert_eq!(puts.collect::<Vec<_>>(), [("k".into(), first, Put::Created), ("k".into(), second, Put::Replaced)]);
}

#[tokio::test]
async fn a_store_may_ignore_or_refuse_conditions() {
    let lab = Lab::new().await;
    lab.put("k", "1").await.unwrap();
    lab.model.conditional_writes(ConditionalWrites::NotImplemented);
    assert_eq!(lab.create("k", "2").await.unwrap_err(), "NotImplemented");
    lab.put("k", "3").await.unwrap();
    lab.model.conditional_writes(ConditionalWrites::Ignored);
    lab.create("k", "4").await.unwrap();
    lab.replace("k", "5", "\"none\"").await.unwrap();
    assert_eq!(lab.content("k").as_deref(), Some("5"));
}

#[tokio::test]
async fn a_delete_may_be_conditional_too() {
    let lab = Lab::new().await;
    let etag = lab.put("k", "1").await.unwrap();
    let delete = |etag: &str| lab.s3.delete_object().bucket(BUCKET).key("k").if_match(etag).send();
    assert_eq!(code(&delete("\"none\"").await.unwrap_err()), "PreconditionFailed");
    delete(&etag).await.unwrap();
    assert_eq!(lab.content("k"), None);
    assert_eq!(code(&delete(&etag).await.unwrap_err()), "PreconditionFailed");
    lab.s3.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    // a key that comes back goes on counting its puts
    lab.create("k", "2").await.unwrap();
    assert_eq!(lab.model.objects(BUCKET).unwrap()["k"].puts, 2);
}

#[tokio::test]
async fn an_object_is_read_as_it_was_put() {
    let lab = Lab::new().await;
    let key = "a/b c&<ü>+%";
    let call = lab.s3.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"0123456789"));
    let call = call.content_type("image/png").metadata("job", "j-1").tagging("team=red").cache_control("no-store");
    let put = call.send().await.unwrap();
    assert_eq!(put.e_tag(), Some("\"781e5e245d69b566979b86e28d23f2c7\""));
    let get = || lab.s3.get_object().bucket(BUCKET).key(key);
    let all = get().send().await.unwrap();
    assert_eq!((all.content_type(), all.content_length(), all.e_tag()), (Some("image/png"), Some(10), put.e_tag()));
    assert_eq!((all.cache_control(), all.metadata().unwrap()["job"].as_str()), (Some("no-store"), "j-1"));
    assert!(all.last_modified().is_some());
    assert_eq!(all.body.collect().await.unwrap().to_vec(), b"0123456789");
    let part = get().range("bytes=2-4").send().await.unwrap();
    assert_eq!(part.content_range(), Some("bytes 2-4/10"));
    assert_eq!(part.body.collect().await.unwrap().to_vec(), b"234");
    assert_eq!(code(&get().range("bytes=10-").send().await.unwrap_err()), "InvalidRange");
    assert_eq!(code(&get().if_none_match(put.e_tag().unwrap()).send().await.unwrap_err()), "304");
    assert_eq!(code(&get().if_match("\"none\"").send().await.unwrap_err()), "PreconditionFailed");
    let head = lab.s3.head_object().bucket(BUCKET).key(key).send().await.unwrap();
    assert_eq!((head.content_length(), head.metadata().unwrap()["job"].as_str()), (Some(10), "j-1"));
    assert_eq!(lab.model.objects(BUCKET).unwrap()[key].tagging.as_deref(), Some("team=red"));
}

#[tokio::test]
async fn what_is_not_there_is_told_in_aws_words() {
    let lab = Lab::new().await;
    let error = lab.s3.get_object().bucket(BUCKET).key("none").send().await.unwrap_err();
    assert_eq!(error.as_service_error().unwrap().message(), Some("The specified key does not exist."));
    assert!(error.into_service_error().is_no_such_key());
    let error = lab.s3.head_object().bucket(BUCKET).key("none").send().await.unwrap_err();
    assert!(error.into_service_error().is_not_found());
    let error = lab.s3.put_object().bucket("none").key("k").send().await.unwrap_err();
    assert_eq!(code(&error), "NoSuchBucket");
    let error = lab.s3.head_bucket().bucket("none").send().await.unwrap_err();
    assert!(error.into_service_error().is_not_found());
}

#[tokio::test]
async fn a_file_is_put_in_frames_with_its_checksum_behind() {
    let lab = Lab::new().await;
    let file = std::env::temp_dir().join(format!("millrace-aws-model-{}", std::process::id()));
    let content = "0123456789".repeat(30_000);
    tokio::fs::write(&file, &content).await.unwrap();
    let body = ByteStream::from_path(&file).await.unwrap();
    let put = lab.s3.put_object().bucket(BUCKET).key("k").body(body).send().await;
    tokio::fs::remove_file(&file).await.unwrap();
    let put = put.unwrap();
    assert!(put.checksum_crc32().is_some(), "{put:?}");
    assert_eq!(lab.content("k").as_deref(), Some(content.as_str()));
    // the SDK asks for the checksum and compares
    let get = lab.s3.get_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(get.checksum_crc32(), put.checksum_crc32());
    assert_eq!(get.body.collect().await.unwrap().to_vec(), content.as_bytes());
}

#[tokio::test]
async fn a_body_that_is_not_what_its_checksum_says_is_refused() {
    let lab = Lab::new().await;
    let put = || lab.s3.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    assert_eq!(code(&put().checksum_crc32("AAAAAA==").send().await.unwrap_err()), "BadDigest");
    assert_eq!(code(&put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await.unwrap_err()), "BadDigest");
    assert_eq!(lab.content("k"), None);
}

#[tokio::test]
async fn keys_are_listed_by_prefix_in_pages_and_folders() {
    let lab = Lab::new().await;
    for key in ["a/1", "a/2", "a/3 &", "b", "c/1"] {
        lab.put(key, "x").await.unwrap();
    }
    let list = || lab.s3.list_objects_v2().bucket(BUCKET).max_keys(2);
    let mut pages = list().prefix("a/").into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        found.push(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()).collect::<Vec<_>>());
    }
    assert_eq!(found, [vec!["a/1", "a/2"], vec!["a/3 &"]]);
    let mut pages = list().delimiter("/").into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        found.extend(page.common_prefixes().iter().map(|folder| folder.prefix().unwrap().to_owned()));
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
    }
    assert_eq!(found, ["a/", "b", "c/"]);
    let after = list().start_after("a/3 &").send().await.unwrap();
    assert_eq!(after.contents().iter().map(|object| object.key().unwrap()).collect::<Vec<_>>(), ["b", "c/1"]);
    let error = list().continuation_token("?").send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidArgument");
}

#[tokio::test]
async fn buckets_are_made_found_and_deleted_when_empty() {
    let lab = Lab::new().await;
    lab.s3.create_bucket().bucket("other").send().await.unwrap();
    lab.s3.head_bucket().bucket("other").send().await.unwrap();
    lab.put("k", "x").await.unwrap();
    lab.s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(lab.content("k").as_deref(), Some("x"));
    assert_eq!(code(&lab.s3.create_bucket().bucket("Q_").send().await.unwrap_err()), "InvalidBucketName");
    let buckets = lab.s3.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets().iter().map(|b| b.name().unwrap()).collect::<Vec<_>>(), [BUCKET, "other"]);
    assert_eq!(code(&lab.s3.delete_bucket().bucket(BUCKET).send().await.unwrap_err()), "BucketNotEmpty");
    lab.s3.delete_bucket().bucket("other").send().await.unwrap();
    assert!(lab.model.objects("other").is_none());
}

#[tokio::test]
async fn what_the_model_does_not_have_is_refused_by_its_name() {
    let lab = Lab::new().await;
    let put = || lab.s3.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"x"));
    let get = || lab.s3.get_object().bucket(BUCKET).key("k");
    for (error, named) in [
        (
            put().storage_class("GLACIER".into()).send().await.unwrap_err().into_service_error().meta().clone(),
            "x-amz-storage-class",
        ),
        (
            put().if_none_match("\"etag\"").send().await.unwrap_err().into_service_error().meta().clone(),
            "If-None-Match",
        ),
        (get().version_id("v").send().await.unwrap_err().into_service_error().meta().clone(), "versionId"),
    ] {
        assert_eq!(error.code(), Some("NotImplemented"));
        assert!(error.message().unwrap().contains(named), "{error:?}");
    }
    let error = get().expected_bucket_owner("123456789012").send().await.unwrap_err();
    assert_eq!(code(&error), "AccessDenied");
}
