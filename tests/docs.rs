//! The pages of `deploy/docs`: those that are generated are as committed, those that are written by hand leave nothing out,
//! and no link leads nowhere. `TESSERA_WRITE_DOCS=1 cargo test -p tessera-tests --test docs` writes what is generated.

#[path = "docs/api.rs"]
mod api;
#[path = "docs/defaults.rs"]
mod defaults;
#[path = "docs/errors.rs"]
mod errors;
#[expect(dead_code, reason = "the rules of `tidy` ask for more of it")]
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "docs/limits.rs"]
mod limits;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/pages.rs"]
mod pages;
#[path = "docs/settings.rs"]
mod settings;
