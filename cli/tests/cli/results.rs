//! What jobs made is downloaded, and what cannot be is told beside the rest.

use serde_json::{Value, json};

use crate::lab::{BUCKET, Lab};

#[tokio::test]
async fn one_bad_output_or_record_does_not_take_the_others() {
    let lab = Lab::new().await;
    for id in ["gone", "good"] {
        assert_eq!(lab.run(&["submit", "--prompt", "x", "--job-id", id]).await.code, 0);
    }
    assert_eq!(lab.work().await, 2);
    let key = "out/gone.record.json";
    let mut record: Value = serde_json::from_slice(&lab.model.objects(BUCKET).unwrap()[key].body).unwrap();
    let uri = format!("s3://{BUCKET}/out/gone.png");
    record["outputs"] = json!([{ "uri": uri, "content_type": "image/png", "bytes": 1, "sha256": "" }]);
    lab.put(key, record.to_string()).await;
    lab.put("out/bad.record.json", "no record".into()).await;

    let results = lab.run(&["results", "bad", "gone", "good", "--output", "got", "-o", "json"]).await;
    assert_eq!(results.code, 3, "{results:?}");
    let told = results.json();
    assert_eq!((&told[0]["status"], &told[0]["error"]["code"]), (&json!("UNKNOWN"), &json!("Record")), "{told}");
    assert_eq!((&told[1]["status"], &told[1]["error"]["code"]), (&json!("COMPLETED"), &json!("Download")), "{told}");
    assert_eq!(told[2]["files"], json!(["got/good.json"]));
    assert_eq!(std::fs::read_to_string(lab.path("got/good.json")).unwrap(), "\"x\"\n");
    // alone, it is the command's own error
    assert_eq!(lab.run(&["status", "bad"]).await.code, 1);
}
