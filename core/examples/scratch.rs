use pipe_core::{check::check_text, document::Syntax, graph_export, plan, testing};
use std::path::Path;
fn main() {
    let r = testing::registry();
    let c = check_text(&r, testing::GOOD, Path::new("good.yaml"), Syntax::Yaml, &[]);
    std::fs::write("/tmp/g.svg", graph_export::to_svg(&c)).unwrap();
    println!("{}", graph_export::to_dot(&c));
    println!("{}", graph_export::to_mermaid(&c));
    let p = plan::plan_document(&r, &c);
    println!("{}", p.clone().with_program(30 << 20).with_speed(|_| 1e13).render(false));
    println!("{}", serde_json::to_string_pretty(&p.phases[1]).unwrap());
    println!("{}", p.fits(2 << 30).unwrap_err());
    println!("{}", serde_json::to_string_pretty(&r.node_schema("optimizer.adamw")).unwrap());
    println!("{}", serde_json::to_string_pretty(r.settings_schema()).unwrap());
}
