//! Dump.
fn main() {
    let r = pipe_core::testing::registry();
    println!("{}", serde_json::to_string_pretty(r.settings_schema()).unwrap());
    for k in r.kinds() { println!("{}", serde_json::to_string_pretty(&k.schema).unwrap()); }
}
