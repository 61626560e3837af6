//! The picture is well-formed and stands alone.

use super::super::report::tests::report;
use super::*;

#[test]
fn it_is_well_formed_and_refers_to_nothing() {
    let svg = draw(&report());
    let (mut open, mut rest) = (Vec::new(), svg.as_str());
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(svg.matches("http").count(), 1, "only the namespace");
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    assert_eq!(svg.matches("<path").count(), 5);
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn axes_end_at_short_numbers() {
    for (most, wanted) in [(1.0, 1.0), (3.0, 4.0), (4.1, 10.0), (99.0, 100.0), (120.0, 200.0)] {
        assert!((nice(most) - wanted).abs() < 1e-9, "{most}");
    }
}
