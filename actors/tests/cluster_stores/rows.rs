//! Rows: what is written of sessions, and how they are found.

use actix_lines::cluster::{Change, Row};

use crate::{Engine, LONG, begin, die, named, node, renew, row, rows};

pub(crate) async fn rows_are_read_as_they_were_written(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (a, b) = (node("a", 1), node("b", 1));
    let full = Row {
        session: u64::MAX,
        peer: "[2001:db8::1]:65535".into(),
        listener: Some("public".into()),
        opened: u64::MAX,
        name: Some("alice".into()),
        tags: vec!["staff".into(), "de".into()],
    };
    first.register(&a, &begin([row(1), full.clone(), Row::default()])).await.unwrap();
    second.register(&b, &begin([row(1)])).await.unwrap();
    assert_eq!(rows(&second, &a).await, [Row::default(), row(1), full.clone()]);
    let changed = Row { tags: vec![], name: Some("bob".into()), ..full };
    let change = Change { put: vec![changed.clone(), row(7)], remove: vec![1, 999], ..renew(LONG) };
    first.register(&a, &change).await.unwrap();
    assert_eq!(rows(&second, &a).await, [Row::default(), row(7), changed]);
    assert_eq!(second.nodes().await.unwrap()[0].sessions, 3);
    assert_eq!(rows(&first, &b).await, [row(1)], "another node's");
    assert_eq!(rows(&first, &node("nobody", 1)).await, []);
}

pub(crate) async fn a_node_that_lacks_rows_says_so_until_all_are_there(engine: &impl Engine) {
    let (writer, reader) = (engine.store().await, engine.store().await);
    let a = node("a", 1);
    let is_partial = async || {
        let is_partial = reader.list(&a, None).await.unwrap().is_partial;
        // By name too, whether or not one of those that are there has it.
        for name in ["alice", "nobody"] {
            let expected = if is_partial { vec![a.clone()] } else { vec![] };
            assert_eq!(reader.lookup(name).await.unwrap().partial, expected, "{name}");
        }
        is_partial
    };
    writer.register(&node("b", 1), &begin([named(1, "alice")])).await.unwrap();
    writer.register(&a, &begin([row(1)])).await.unwrap();
    assert!(!is_partial().await, "a life begins with all");
    for (said, then) in [(Some(true), true), (None, true), (Some(false), false), (None, false), (Some(true), true)] {
        let change = Change { put: vec![row(2)], is_partial: said, ..renew(LONG) };
        writer.register(&a, &change).await.unwrap();
        assert_eq!(is_partial().await, then, "{said:?}");
    }
    // However many rows that takes.
    writer.register(&a, &begin((0..1200).map(row))).await.unwrap();
    assert!(!is_partial().await, "another life");
    let some = Change { is_partial: Some(true), ..begin((0..1200).map(row)) };
    writer.register(&a, &some).await.unwrap();
    assert!(is_partial().await && rows(&reader, &a).await.len() == 1200);
    let rest = Change {
        put: (1200..2400).map(row).collect(),
        remove: (0..1200).collect(),
        is_partial: Some(false),
        ..renew(LONG)
    };
    writer.register(&a, &rest).await.unwrap();
    assert!(!is_partial().await && rows(&reader, &a).await.len() == 1200);
    // A node without a lease lacks none.
    writer.register(&a, &some).await.unwrap();
    die(&writer, &a).await;
    assert!(!is_partial().await);
}

pub(crate) async fn twenty_thousand_rows_come_page_by_page_while_others_change(engine: &impl Engine) {
    const ROWS: u64 = 20_000;
    let (writer, reader) = (engine.store().await, engine.store().await);
    let a = node("a", 1);
    writer.register(&a, &begin([])).await.unwrap();
    for begin in (0..ROWS).step_by(1000) {
        let put = (begin..begin + 1000).map(row).collect();
        writer.register(&a, &Change { put, ..renew(LONG) }).await.unwrap();
    }
    assert_eq!(reader.nodes().await.unwrap()[0].sessions, ROWS);
    let mut found = vec![0_u32; ROWS as usize];
    let (mut after, mut pages, mut largest) = (None, 0, 0);
    loop {
        let page = reader.list(&a, after).await.unwrap();
        pages += 1;
        largest = largest.max(page.rows.len());
        for found_row in page.rows {
            match found.get_mut(found_row.session as usize) {
                Some(times) => {
                    *times += 1;
                    assert_eq!(found_row, row(found_row.session));
                }
                None => assert!(found_row.session >= ROWS),
            }
        }
        // Others come and go meanwhile.
        let put = (0..100).map(|nth| row(ROWS + 100 * pages + nth)).collect();
        let remove = if pages > 1 { (0..50).map(|nth| ROWS + 100 * (pages - 1) + nth).collect() } else { vec![] };
        writer.register(&a, &Change { put, remove, ..renew(LONG) }).await.unwrap();
        after = page.next;
        if after.is_none() {
            break;
        }
        assert!(pages < 1000, "no end of pages");
    }
    let missing: Vec<_> = (0..ROWS).filter(|session| found[*session as usize] == 0).collect();
    assert!(missing.is_empty(), "{} are not listed, as {:?}", missing.len(), &missing[..missing.len().min(10)]);
    assert!(largest < 10_000, "{largest} rows on a page");
    let remove = (0..ROWS - 1).collect();
    writer.register(&a, &Change { remove, ..renew(LONG) }).await.unwrap();
    assert_eq!(rows(&reader, &a).await[0], row(ROWS - 1), "the rest is removed");
}

pub(crate) async fn sessions_are_found_by_their_names_on_all_live_nodes(engine: &impl Engine) {
    let (first, second) = (engine.store().await, engine.store().await);
    let (a, b) = (node("a", 1), node("b", 1));
    let alice = || async {
        let mut found = second.lookup("alice").await.unwrap().rows;
        found.sort_by_key(|(node, row)| (node.clone(), row.session));
        found
    };
    first.register(&a, &begin([named(1, "alice"), named(2, "alice"), named(3, "bob"), row(4)])).await.unwrap();
    assert_eq!(alice().await, [(a.clone(), named(1, "alice")), (a.clone(), named(2, "alice"))]);
    second.register(&b, &begin([named(1, "alice")])).await.unwrap();
    assert_eq!(alice().await.len(), 3);
    // One changes its name, one ends, one is given a name, one is given other tags.
    let tagged = Row { tags: vec!["staff".into()], ..named(4, "alice") };
    let change =
        Change { put: vec![named(1, "carol"), named(4, "alice"), tagged.clone()], remove: vec![2], ..renew(LONG) };
    first.register(&a, &change).await.unwrap();
    assert_eq!(alice().await, [(a.clone(), tagged), (b.clone(), named(1, "alice"))]);
    assert_eq!(second.lookup("carol").await.unwrap().rows, [(a.clone(), named(1, "carol"))]);
    assert_eq!(second.lookup("nobody").await.unwrap().rows, []);
    assert_eq!(second.lookup("").await.unwrap().rows, [], "no name is not the empty name");
    die(&first, &a).await;
    assert_eq!(alice().await, [(b, named(1, "alice"))]);
    assert_eq!(second.lookup("bob").await.unwrap().rows, []);
}
