//! What must hold for every value: its bytes, views and JSON agree with it. (Keys have their own in [`super::key`].)

use proptest::collection::vec;
use proptest::prelude::*;

use super::raw::{Field, Raw};
use super::splice::set_fields;
use super::{Datum, Object, Slice, Text, Time, document, json, json_parse};

fn numbers() -> impl Strategy<Value = Datum> {
    let number = prop_oneof![
        any::<f64>().prop_filter("finite", |number| number.is_finite()),
        any::<i64>().prop_map(|number| number as f64),
        (-300..300i32).prop_map(f64::from),
        Just(-0.0),
        Just(4_294_967_295.0),
        Just(4_294_967_296.0),
    ];
    number.prop_map(Datum::Number)
}

fn times() -> impl Strategy<Value = Datum> {
    (-5_000_000_000_000..300_000_000_000_000i64, -1499..1500i16).prop_map(|(milliseconds, zone_minutes)| {
        Datum::Time(Time { epoch_seconds: milliseconds as f64 / 1000.0, zone_minutes })
    })
}

pub(crate) fn values() -> impl Strategy<Value = Datum> {
    let leaf = prop_oneof![
        Just(Datum::Null),
        any::<bool>().prop_map(Datum::Bool),
        numbers(),
        any::<String>().prop_map(|text| Datum::string(&text)),
        vec(any::<u8>(), 0..130).prop_map(|bytes| Datum::Binary(Slice::from(bytes))),
        times(),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Datum::array),
            vec((any::<String>().prop_map(Text::from), inner), 0..8)
                .prop_map(|pairs| Datum::Object(Object::from_pairs(pairs))),
        ]
    })
}

/// Objects with a directory, most of them: of long and short values.
fn wide_objects() -> impl Strategy<Value = Object> {
    let long = "[a-z]{20,200}".prop_map(|text| Datum::string(&text));
    let value = prop_oneof![2 => values(), 1 => long];
    vec(("[a-z]{0,12}".prop_map(Text::from), value), 0..30).prop_map(Object::from_pairs)
}

/// An object with a directory whose pairs all stand in the order of their keys, as they were written once.
fn in_order_of_keys(object: &Object) -> Vec<u8> {
    let (mut entries, mut pairs) = (Vec::new(), Vec::new());
    for (key, value) in object.iter() {
        entries.extend_from_slice(&(pairs.len() as u16).to_le_bytes());
        document::put_bytes(key.as_bytes(), &mut pairs);
        document::encode(&value, &mut pairs);
    }
    let mut body = Vec::new();
    document::put_varint(object.len() as u32, &mut body);
    body.extend_from_slice(&entries);
    body.extend_from_slice(&pairs);
    let mut bytes = vec![document::tag::INDEXED_OBJECT];
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Looks at a value in all the ways that do without one built of it.
fn read(bytes: &[u8]) {
    let raw = Raw::new(bytes);
    raw.touch(2);
    raw.field(b"a", &mut 1);
    document::write_json(bytes, &mut Vec::new());
    set_fields(bytes, &document::to_bytes(&Datum::object([("a", Datum::Null)])), "id");
}

#[test]
fn a_directory_of_no_pairs_is_refused() {
    assert_eq!(document::check(&[12, 1, 0, 0, 0, 0]), Err(document::DocumentError::Directory { at: 0 }));
}

proptest! {
    #[test]
    fn objects_read_the_same_wherever_their_pairs_stand(object in wide_objects(), change in wide_objects()) {
        let new = document::to_bytes(&Datum::Object(object.clone()));
        let mut old = new.clone();
        // Shorter ones never had a directory.
        if new[0] == document::tag::INDEXED_OBJECT {
            old = in_order_of_keys(&object);
            prop_assert_eq!(old.len(), new.len());
        }
        let datum = Datum::Object(object.clone());
        for bytes in [&old, &new] {
            prop_assert_eq!(document::check(bytes), Ok(()));
            let view = document::from_bytes(bytes);
            prop_assert_eq!(format!("{view:?}"), format!("{datum:?}"));
            let mut printed = Vec::new();
            document::write_json(bytes, &mut printed);
            prop_assert_eq!(String::from_utf8(printed), Ok(json::to_string(&datum)));
            for (index, (key, value)) in object.iter().enumerate() {
                Raw::new(bytes).touch(index);
                match Raw::new(bytes).field(key.as_bytes(), &mut { 3 }) {
                    Field::Value(found) => prop_assert_eq!(found.to_datum(), value),
                    Field::Missing | Field::NotThere => panic!("{key:?} is not found"),
                }
            }
        }
        let change = document::to_bytes(&Datum::Object(change));
        prop_assert_eq!(set_fields(&old, &change, "id"), set_fields(&new, &change, "id"));
        prop_assert!(document::is_same(&old, &new));
    }

    #[test]
    fn encoded_values_are_sound_and_the_same(datum in values()) {
        let bytes = document::to_bytes(&datum);
        prop_assert_eq!(document::check(&bytes), Ok(()));
        let view = document::from_bytes(&bytes);
        prop_assert_eq!(format!("{view:?}"), format!("{datum:?}"));
        prop_assert_eq!(document::to_bytes(&view), bytes);
    }

    #[test]
    fn json_reads_back_the_same(datum in values()) {
        let text = json::to_string(&datum);
        let read = json_parse::parse(&Text::new(&text)).expect("what we print parses");
        prop_assert_eq!(format!("{read:?}"), format!("{datum:?}"));
        let pretty = json_parse::parse(&Text::from(json::to_pretty_string(&datum))).expect("parses");
        prop_assert_eq!(format!("{pretty:?}"), format!("{datum:?}"));
        // Others agree that it is JSON.
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn documents_print_as_their_values(datum in values()) {
        let mut printed = Vec::new();
        document::write_json(&document::to_bytes(&datum), &mut printed);
        prop_assert_eq!(String::from_utf8(printed), Ok(json::to_string(&datum)));
    }

    #[test]
    fn views_compare_as_their_values(a in values(), b in values()) {
        let view = |datum: &Datum| document::from_bytes(&document::to_bytes(datum));
        let order = a.cmp(&b);
        prop_assert_eq!(view(&a).cmp(&b), order);
        prop_assert_eq!(a.cmp(&view(&b)), order);
        prop_assert_eq!(b.cmp(&a), order.reverse());
        prop_assert!(view(&a) == a);
    }

    #[test]
    fn every_field_of_a_view_is_found(datum in values()) {
        let Datum::Object(object) = &datum else { return Ok(()) };
        let Datum::Object(view) = document::from_bytes(&document::to_bytes(&datum)) else {
            panic!("an object stays an object")
        };
        for (key, value) in object.iter() {
            prop_assert_eq!(view.field(&key), Some(value));
        }
        prop_assert!(!view.has("no such key at all"));
    }

    #[test]
    fn damaged_documents_are_refused_or_readable(
        datum in prop_oneof![values(), wide_objects().prop_map(Datum::Object)], cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bits in 1..=255u8
    ) {
        let mut bytes = document::to_bytes(&datum);
        let cut = cut.index(bytes.len());
        prop_assert!(document::check(&bytes[..cut]).is_err(), "no value is the start of another");
        let flip = flip.index(bytes.len());
        bytes[flip] ^= bits;
        if document::check(&bytes) == Ok(()) {
            let view = document::from_bytes(&bytes);
            let _ = json::to_string(&view);
            prop_assert!(view == view.clone());
            read(&bytes);
        }
    }

    #[test]
    fn foreign_bytes_are_refused_or_readable(bytes in vec(prop_oneof![0..13u8, any::<u8>()], 0..60)) {
        if document::check(&bytes) == Ok(()) {
            let _ = json::to_string(&document::from_bytes(&bytes));
            read(&bytes);
        }
    }
}
