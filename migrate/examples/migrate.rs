//! Migrates a set-up from the shell: `migrate [--schema FILE] [--config FILE] [--dataset FILE] -- COMMAND LINE`.
//!
//! With `--table` it prints the table of all options, with `--names` their names.

use pipe_migrate::{Disk, Input, Product, migrate, names, reference_table};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut input = Input::default();
    let mut product = Product::everything();
    let mut table = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut file = || -> Result<(String, String), Box<dyn std::error::Error>> {
            let path = words.next().ok_or("a path is missing")?;
            Ok((path.clone(), std::fs::read_to_string(path)?))
        };
        match word.as_str() {
            "--schema" => product = Product::from_schema(serde_json::from_str(&file()?.1)?),
            "--config" => input.config_toml = Some(file()?),
            "--dataset" => input.dataset_toml = Some(file()?),
            "--table" => table = true,
            "--names" => {
                println!("{}", names().join("\n"));
                return Ok(());
            }
            "--" => input.args = words.by_ref().collect(),
            other => return Err(format!("no such option: {other}").into()),
        }
    }
    if table {
        print!("{}", reference_table(&product));
        return Ok(());
    }
    if let [line] = &input.args[..] {
        input.args = pipe_migrate::shell::split(line)?;
    }
    let outcome = migrate(&input, &Disk::at("."), &product)?;
    print!("{}", outcome.document);
    eprint!("{}", outcome.render());
    Ok(())
}
