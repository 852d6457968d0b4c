use super::*;
use proptest::prelude::*;

/// A batch with one put, as fjall writes it.
fn batch(seqno: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut item = vec![ITEM, 0, 0];
    item.extend(1u64.to_le_bytes());
    item.extend((key.len() as u16).to_le_bytes());
    item.extend((value.len() as u32).to_le_bytes());
    item.extend((value.len() as u32).to_le_bytes());
    item.extend([key, value].concat());
    let mut bytes = vec![START];
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(seqno.to_le_bytes());
    bytes.extend(&item);
    bytes.push(END);
    bytes.extend(xxh3_64(&item).to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

fn found(bytes: &[u8], from: usize) -> (Vec<usize>, bool) {
    let mut starts = Vec::new();
    let all = search(bytes, from, |batch| {
        starts.push(batch.start);
        true
    });
    (starts, all)
}

#[test]
fn walk_stops_at_the_first_batch_that_is_not_whole_or_out_of_order() {
    let one = batch(7, b"k", b"v");
    let two = batch(8, b"", b"");
    let bytes = [&one[..], &two, &[0; 100]].concat();
    let contents = walk(&bytes, None);
    assert_eq!(contents.whole_end, one.len() + two.len());
    assert_eq!(contents.content_end, contents.whole_end);
    assert_eq!(contents.last.unwrap().seqno, 8);
    // The number again, a lower one, one that cannot be.
    for seqno in [7, 6, u64::MAX, 1 << 50] {
        let contents = walk(&[one.clone(), batch(seqno, b"", b"")].concat(), None);
        assert_eq!(contents.whole_end, one.len(), "{seqno}");
    }
    assert_eq!(walk(&batch(u64::MAX, b"", b""), None).whole_end, 0);
    assert_eq!(walk(&two, contents.last).whole_end, 0);
    assert_eq!(walk(&[], None).content_end, 0);
}

#[test]
fn search_finds_what_is_whole_behind_damage() {
    let one = batch(7, b"k", &[1; 500]);
    let two = batch(8, b"", &[1; 50]);
    let mut bytes = [&one[..], &two, &two].concat();
    bytes[300] = 0;
    let expected = vec![one.len(), one.len() + two.len()];
    assert_eq!(found(&bytes, 1), (expected, true));
    assert_eq!(found(&one, 1), (vec![], true));
    assert_eq!(found(&one, one.len() + 5), (vec![], true));
}

#[test]
fn search_ends_soon_on_bytes_made_to_be_slow() {
    // Each start is followed by items up to the end of everything.
    let start = [&[START][..], &u32::MAX.to_le_bytes(), &[0; 8]].concat();
    let clear = [&[CLEAR][..], &[START; 8]].concat();
    let bytes = [start.repeat(1000), clear.repeat(200_000)].concat();
    // Without the bound it would look at 200 million items.
    assert_eq!(found(&bytes, 0), (vec![], false));
    let nested = [&[START][..], &4_000_000u32.to_le_bytes(), &[0; 8], &[CLEAR]].concat();
    assert!(found(&nested.repeat(300_000), 0).0.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..600), at in 0usize..700) {
        let contents = walk(&bytes, None);
        prop_assert!(contents.whole_end <= contents.content_end && contents.content_end <= bytes.len());
        search(&bytes, at, |_| true);
        seqno_at(&bytes, at);
    }
}
