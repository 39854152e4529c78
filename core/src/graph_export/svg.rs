//! The graph as one self-contained SVG that reads well on light and on dark pages.

use std::fmt::Write as _;

use super::layout::{HEAD, ROW, layout};
use super::{color, graph_of};
use crate::check::Checked;

const STYLE: &str = "
  text { font-family: system-ui, 'Segoe UI', Roboto, Arial, 'DejaVu Sans', sans-serif; font-size: 13px; fill: #1f2328 }
  .name { font-weight: 600; fill: #fff }
  .type { font-size: 11px; fill: #fff; fill-opacity: .85 }
  .port { font-size: 11px; fill: #57606a }
  .box { fill: #fff; stroke: #d0d7de }
  .edge { fill: none; stroke-width: 1.6; stroke-opacity: .75 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .port { fill: #9aa4af } .box { fill: #161b22; stroke: #3d444d }
    .name, .type { fill: #fff }
  }
";

/// Boxes in columns from sources to savers, coloured by kind, with curved edges into named ports.
pub fn to_svg(checked: &Checked) -> String {
    let graph = graph_of(checked);
    let layout = layout(&graph, |text| text.chars().count() as f64 * 7.3);
    let (width, height) = (layout.width.ceil(), layout.height.ceil());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n"
    );
    let name = checked.settings.as_ref().map_or("pipeline", |settings| settings.name.as_str());
    let _ = writeln!(out, "<title>{}</title>\n<style>{STYLE}</style>", escape(name));
    for route in &layout.edges {
        let mut path = format!("M{:.1} {:.1}", route.points[0].0, route.points[0].1);
        for (index, pair) in route.points.windows(2).enumerate() {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            // Between columns a curve, past a column a straight line.
            if index % 2 == 1 {
                let _ = write!(path, " L{x1:.1} {y1:.1}");
            } else {
                let bend = (x1 - x0) * 0.5;
                let _ = write!(path, " C{:.1} {y0:.1} {:.1} {y1:.1} {x1:.1} {y1:.1}", x0 + bend, x1 - bend);
            }
        }
        let stroke = color(graph.dag[route.from].type_name);
        let dashed = if route.refused { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(out, "<path class=\"edge\" stroke=\"{stroke}\"{dashed} d=\"{path}\"/>");
    }
    for (index, node) in graph.nodes() {
        let at = layout.boxes[&index];
        let fill = color(node.type_name);
        let (x, y, w, h) = (at.x, at.y, at.width, at.height);
        let _ = writeln!(out, "<g transform=\"translate({x:.1} {y:.1})\">");
        let _ = writeln!(out, "  <rect class=\"box\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"7\"/>");
        if node.inputs.is_empty() {
            let _ = writeln!(out, "  <rect fill=\"{fill}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"7\"/>");
        } else {
            let (top, side) = (w - 14.0, HEAD - 9.0);
            let _ = writeln!(
                out,
                "  <path fill=\"{fill}\" d=\"M0 7a7 7 0 0 1 7-7h{top:.1}a7 7 0 0 1 7 7v{side}h-{w:.1}z\"/>"
            );
        }
        let _ = writeln!(out, "  <text class=\"name\" x=\"12\" y=\"17\">{}</text>", escape(&node.name));
        let _ = writeln!(out, "  <text class=\"type\" x=\"12\" y=\"32\">{}</text>", escape(node.type_name));
        let mut row = 0.0;
        for (port, links) in &node.inputs {
            for (number, link) in links.iter().enumerate() {
                let middle = HEAD + (row + 0.5) * ROW;
                let source = color(graph.dag[link.node].type_name);
                let _ = writeln!(out, "  <circle cx=\"0\" cy=\"{middle:.1}\" r=\"3.5\" fill=\"{source}\"/>");
                if number == 0 {
                    let _ = writeln!(
                        out,
                        "  <text class=\"port\" x=\"12\" y=\"{:.1}\">{}</text>",
                        middle + 4.0,
                        escape(port)
                    );
                }
                row += 1.0;
            }
        }
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
