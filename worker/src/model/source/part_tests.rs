//! What is left of a file after a worker was killed: ranges, journals, and what a journal may look like.

use proptest::prelude::*;

use super::*;

const PIECE: u64 = 4;

fn file(size: u64, etag: &str) -> RemoteFile {
    RemoteFile { path: "unet/model.safetensors".into(), size, etag: etag.into() }
}

async fn part(folder: &Path, file: RemoteFile) -> Part {
    Part::open(folder, file, PIECE).await.unwrap()
}

async fn fill(part: &Part, range: Range<u64>, content: &str) {
    let mut writer = part.writer(&range).await.unwrap();
    writer.write(content.as_bytes()).await.unwrap();
    assert!(writer.rest().is_empty());
    writer.finish().await.unwrap();
}

#[test]
fn what_is_missing_is_cut_into_pieces() {
    assert_eq!(missing(10, &[], 4), [0..4, 4..8, 8..10]);
    assert_eq!(missing(10, &[], u64::MAX), std::slice::from_ref(&(0..10)));
    assert_eq!(missing(10, &[6..7, 0..3], 4), [3..6, 7..10]);
    assert_eq!(missing(10, &[2..8, 4..6], 4), [0..2, 8..10]);
    assert_eq!(missing(10, &[0..5, 5..10], 4), std::slice::from_ref(&(10..10)));
    assert_eq!(missing(0, &[], 4), std::slice::from_ref(&(0..0)));
}

proptest! {
    #[test]
    fn there_and_missing_are_all_and_missing_is_not_there(
        size in 1_u64..60,
        piece in 1_u64..20,
        cuts in proptest::collection::vec((0_u64..60, 0_u64..60), 0..6),
    ) {
        let there: Vec<_> = cuts.into_iter().map(|(a, b)| a.min(b).min(size)..a.max(b).min(size)).collect();
        let missing = missing(size, &there, piece);
        for at in 0..size {
            let times = missing.iter().filter(|range| range.contains(&at)).count();
            prop_assert_eq!(times, usize::from(!there.iter().any(|range| range.contains(&at))));
        }
        prop_assert!(missing.iter().all(|range| range.end - range.start <= piece));
    }
}

#[tokio::test]
async fn another_worker_goes_on_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let first = part(folder.path(), file(10, "a")).await;
    fill(&first, 4..8, "4567").await;
    let second = part(folder.path(), file(10, "a")).await;
    assert_eq!((second.ranges.clone(), second.missing()), (vec![0..4, 8..10], 6));
    fill(&second, 0..4, "0123").await;
    assert!(!second.count_down());
    fill(&second, 8..10, "89").await;
    assert!(second.count_down());
    let target = folder.path().join("files/unet/model.safetensors");
    second.finish(&target).await.unwrap();
    assert_eq!(std::fs::read_to_string(target).unwrap(), "0123456789");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["files"], "neither the part nor its journal");
}

#[tokio::test]
async fn nothing_is_kept_of_another_file_or_of_what_may_not_be_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join(Part::name(&file(10, "a"))).with_extension("journal");
    let other_boot = || {
        let text = std::fs::read_to_string(&journal).unwrap();
        let (heading, rest) = text.split_once('\n').unwrap();
        let mut heading: Heading = serde_json::from_str(heading).unwrap();
        heading.boot = Some("before".into());
        std::fs::write(&journal, format!("{}\n{rest}", serde_json::to_string(&heading).unwrap())).unwrap();
    };
    let gone = || std::fs::remove_file(journal.with_extension("")).unwrap();
    let cases: [(&str, RemoteFile, &dyn Fn()); 5] = [
        ("the same", file(10, "a"), &|| {}),
        ("its ETag", file(10, "b"), &|| {}),
        ("its size", file(12, "a"), &|| {}),
        ("the system was started anew", file(10, "a"), &other_boot),
        ("the part is gone", file(10, "a"), &gone),
    ];
    for (what, next, change) in cases {
        fill(&part(folder.path(), file(10, "a")).await, 4..8, "4567").await;
        change();
        let size = next.size;
        let kept = size - part(folder.path(), next).await.missing();
        assert_eq!(kept, if what == "the same" { 4 } else { 0 }, "{what}");
        std::fs::remove_dir_all(folder.path()).unwrap();
        std::fs::create_dir(folder.path()).unwrap();
    }
}

#[test]
fn a_journal_that_was_cut_off_says_less_but_nothing_wrong() {
    let heading = Heading { path: "p".into(), size: 1000, etag: "e".into(), boot: None };
    let text = format!("{}\n0-400\n600-1000\n", serde_json::to_string(&heading).unwrap());
    for length in 0..=text.len() {
        for range in noted(&text[..length], &heading) {
            let inside = |whole: Range<u64>| whole.start <= range.start && range.end <= whole.end;
            assert!(inside(0..400) || inside(600..1000), "{range:?} of {length} bytes");
        }
    }
    assert_eq!(noted(&text, &heading), [0..400, 600..1000]);
    assert_eq!(noted(&format!("{text}7-3\n5-2000\n-\nx-1\n"), &heading), [0..400, 600..1000]);
}
