//! The ready pipelines inside the binary, with the images and weights they name.

/// A pipeline to begin with.
pub struct Template {
    /// What it is asked for by.
    pub name: &'static str,
    /// The document.
    pub text: &'static str,
    /// Files it names: path beside the document, content.
    pub assets: &'static [(&'static str, &'static [u8])],
}

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

impl Template {
    /// The template of a name.
    pub fn find(name: &str) -> Option<&'static Template> {
        TEMPLATES.iter().find(|template| template.name == name)
    }
    /// The template taken when none is named.
    pub fn default() -> Option<&'static Template> {
        Self::find("quickstart").or(TEMPLATES.first())
    }
    /// The first line of its opening comment.
    pub fn summary(&self) -> &'static str {
        let mut comments = self.text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
        comments.find(|line| !line.is_empty() && !line.starts_with("yaml-language-server")).unwrap_or("")
    }
    /// The document with its modeline pointing at the schema beside it.
    pub fn document(&self, schema: &str) -> String {
        let modeline = format!("# yaml-language-server: $schema={schema}\n");
        let rest = self.text.lines().filter(|line| !line.starts_with("# yaml-language-server:"));
        rest.fold(modeline, |text, line| text + line + "\n")
    }
}
