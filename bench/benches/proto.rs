//! The floor `proto` by itself: what every request passes on its way in and out.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use photondb_bench::work::document;
use photondb_proto::datum::{Text, document as binary, json, json_parse, key};
use photondb_proto::term::parse::Parser;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let table = r#"[15,[[14,["bench"]],"docs"]]"#;
    let queries = [
        ("get", format!(r#"[1,[16,[{table},"user000000000001"]],{{}}]"#)),
        (
            "filter",
            format!(r#"[1,[43,[[39,[{table},[69,[[2,[1]],[21,[[170,[[10,[1]],"n"]],100000]]]]]]]],{{}}]"#),
        ),
        ("insert", format!("[1,[56,[{table},{}]],{{}}]", document(7))),
    ];
    let mut parser = Parser::default();
    for (name, query) in queries {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || query.clone().into_bytes(),
                |query| parser.parse(black_box(query)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn datum(criterion: &mut Criterion) {
    let text = document(7);
    let datum = json_parse::parse(&Text::new(&text)).expect("a document");
    let bytes = binary::to_bytes(&datum);
    let id = json_parse::parse(&Text::new("\"user000000000007\"")).expect("a key");
    let mut group = criterion.benchmark_group("document of 1.1 KB");
    group.bench_function("parse JSON", |bencher| {
        let text = Text::new(&text);
        bencher.iter(|| json_parse::parse(black_box(&text)));
    });
    group.bench_function("encode", |bencher| bencher.iter(|| binary::to_bytes(black_box(&datum))));
    group.bench_function("decode", |bencher| bencher.iter(|| binary::from_bytes(black_box(&bytes))));
    let mut out = Vec::with_capacity(4096);
    group.bench_function("print from bytes", |bencher| {
        bencher.iter(|| {
            out.clear();
            binary::write_json(black_box(&bytes), &mut out);
        });
    });
    group.bench_function("print from values", |bencher| {
        bencher.iter(|| {
            out.clear();
            json::write(black_box(&datum), &mut out);
        });
    });
    group.bench_function("primary key", |bencher| bencher.iter(|| key::primary(black_box(&id))));
    group.finish();
}

criterion_group!(benches, parse, datum);
criterion_main!(benches);
