//! The page of everything outside `nodes`.

use pipe_core::registry::Registry;

use super::table;
use crate::fields::settings_fields;

const HEAD: &str = "\
# Settings

Everything in a document outside `nodes`. YAML and TOML have the same fields; in TOML a nested
table is `[train]`, a node `[nodes.name]`.

```yaml
# yaml-language-server: $schema=pipeline.schema.json
version: 1
name: my-run
train: { steps: 1600, batch_size: 1 }
nodes:
  # see the reference of nodes
```

```toml
#:schema pipeline.schema.json
version = 1
name = \"my-run\"
train = { steps = 1600, batch_size = 1 }
```

";

pub(super) fn page(registry: &Registry) -> String {
    format!("{HEAD}{}", table::fields(&settings_fields(registry)))
}
