//! A store of keys and values in a plain program, without a server: `cargo run -p photondb-storage --example library DIR`.

use std::error::Error;

use photondb_storage::library::{SlabStorage, Write};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("say which folder the store is to lie in")?;
    // A cache of 64 MB and at most 100,000 entries.
    let mut storage = SlabStorage::new(folder, 64, 100_000)?;

    storage.set(b"planet/1", b"Mercury")?;
    // All of a batch is there after a crash, or nothing of it.
    storage.write_batch(&[
        Write::Set(b"planet/2", b"Venus"),
        Write::Set(b"planet/3", b"Earth"),
        Write::Delete(b"planet/9"),
    ])?;
    for (key, value) in storage.range(b"planet/".to_vec()..b"planet0".to_vec(), 10)? {
        println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    if let Some(value) = storage.get(b"planet/3")? {
        println!("the third is {}", String::from_utf8_lossy(&value));
    }
    println!("{:.0}% of reads came from the cache", storage.stats().cache_hit_rate() * 100.0);
    storage.close()?;
    Ok(())
}
