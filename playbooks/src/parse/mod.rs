//! A playbook file: strict YAML in, a playbook or every error out, each with line, column and what would be right.
//!
//! The same rules hold in three places: here for files, in [`check_spec`] for what is applied to a cluster, and in the
//! schema of the CRD. Nothing is guessed: an unknown field is an error, a key twice is an error, and a file that wants
//! to be big is refused before it is understood.

mod check;
pub(crate) mod suggest;
mod tree;

use std::{collections::BTreeMap, fmt};

use evergreen_api::{
    FieldError,
    resources::{Playbook, PlaybookSpec},
};
use serde::Deserialize;
use serde_saphyr::{DuplicateKeyPolicy, Error, Location, MergeKeyPolicy, Options, Spanned};

pub use check::{MAX_STEPS, MAX_TRIGGERS, MAX_WAIT_SECONDS};
pub(crate) use check::{run_scope, scope_of};

/// Largest file in bytes. The largest sensible playbook is a tenth of it.
pub const MAX_FILE_BYTES: usize = 64 * 1024;
/// Most YAML nodes in a file: 50 steps with every setting are about 500.
const MAX_NODES: usize = 3_000;
/// Deepest nesting; a playbook needs 7.
const MAX_DEPTH: usize = 24;
/// A playbook's name becomes a label value and the beginning of the names of its runs.
pub(crate) const MAX_NAME: usize = 50;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// Path of the field, where it is known.
    pub path: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Diagnostic {
    /// `FILE:LINE:COLUMN: PATH: MESSAGE`, as editors and people read it.
    pub fn render(&self, file: &str) -> String {
        format!("{file}:{self}")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// A file, exactly: what a person may write around a spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: PlaybookSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads one playbook from the text of a file.
///
/// # Errors
/// Everything that is wrong, in the order of the file. What keeps the file from being understood at all (syntax, an
/// unknown field, a wrong type) is reported alone, because the rest cannot be judged before it is right.
pub fn lint_file(text: &str) -> Result<Playbook, Vec<Diagnostic>> {
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, at most {MAX_FILE_BYTES} are read", text.len());
        return Err(vec![Diagnostic { line: 1, column: 1, path: None, message }]);
    }
    let tree: Spanned<tree::Tree> = read(text).map_err(|error| vec![error])?;
    let file: File = read(text).map_err(|error| vec![error])?;
    let mut errors = check_header(&file)
        .into_iter()
        .map(check::SpecError::from)
        .chain(check::check(&file.spec))
        .map(|error| diagnostic(text, &tree, error))
        .collect::<Vec<_>>();
    if !errors.is_empty() {
        errors.sort_by_key(|error| (error.line, error.column));
        return Err(errors);
    }
    let mut playbook = Playbook::new(&file.metadata.name, file.spec);
    playbook.metadata.labels = Some(file.metadata.labels).filter(|labels| !labels.is_empty());
    playbook.metadata.annotations = Some(file.metadata.annotations).filter(|annotations| !annotations.is_empty());
    Ok(playbook)
}

/// Everything that is wrong with a spec that is applied already: shape, budgets, expressions, unreachable steps.
pub fn check_spec(spec: &PlaybookSpec) -> Vec<FieldError> {
    check::check(spec).into_iter().map(|error| error.field).collect()
}

/// Reads strict YAML within the limits above.
pub(crate) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Diagnostic> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(&error))
}

/// Lines at which the entries of a list stand; 1 where it cannot be told.
pub(crate) fn lines_of(text: &str, list: &str, entries: usize) -> Vec<u64> {
    let tree: Option<Spanned<tree::Tree>> = read(text).ok();
    let line = |index| tree.as_ref().map_or(1, |tree| tree::locate(tree, &format!("{list}[{index}]")).line().max(1));
    (0..entries).map(line).collect()
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_aliases: 16,
            max_anchors: 16,
            max_total_scalar_bytes: MAX_FILE_BYTES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
    }
}

fn explain(error: &Error) -> Diagnostic {
    let error = error.without_snippet();
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let known = expected.join(", ");
            let remedy = suggest::remedy(field, expected);
            if remedy.starts_with("known") {
                format!("unknown field `{field}`; {remedy}")
            } else {
                format!("unknown field `{field}`: {remedy} Known here: {known}")
            }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not possible here: {}", suggest::remedy(variant, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing"),
        Error::MultipleDocuments { .. } => "one playbook a file: put the next one into a file of its own".to_owned(),
        // The library prints the place in the text too; it is given once, in front.
        other => {
            let text = other.to_string();
            let place = text.rfind(" at line ").or_else(|| text.rfind(" (line "));
            place.map_or_else(|| text.clone(), |end| text[..end].to_owned())
        }
    };
    let (line, column) = error.location().map_or((1, 1), |location| (location.line().max(1), location.column().max(1)));
    Diagnostic { line, column, path: None, message }
}

fn check_header(file: &File) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let expected = format!("{}/{}", evergreen_api::names::GROUP, evergreen_api::names::VERSION);
    if file.api_version != expected {
        errors.push(FieldError::new("apiVersion", format!("`{}` is not known: write {expected}", file.api_version)));
    }
    if file.kind != "Playbook" {
        errors.push(FieldError::new("kind", format!("`{}` is no playbook: write Playbook", file.kind)));
    }
    let name = &file.metadata.name;
    if name.len() > MAX_NAME || name.contains('.') || !check::is_dns_name(name) {
        let message =
            format!("`{name}` is no name for a playbook: at most {MAX_NAME} lower-case letters, digits and dashes");
        errors.push(FieldError::new("metadata.name", message));
    }
    errors
}

fn diagnostic(text: &str, tree: &Spanned<tree::Tree>, error: check::SpecError) -> Diagnostic {
    let location = tree::locate(tree, &error.field.path);
    let (line, column) = match error.offset {
        Some(offset) => inside_scalar(text, location, offset),
        None => (location.line(), location.column()),
    };
    Diagnostic { line: line.max(1), column: column.max(1), path: Some(error.field.path), message: error.field.message }
}

/// The place `offset` characters into a scalar: exact for plain and quoted text on one line and for literal blocks,
/// the beginning of the scalar otherwise (folded text, escapes before the place).
fn inside_scalar(text: &str, start: Location, offset: usize) -> (u64, u64) {
    let (line, column) = (start.line(), start.column());
    let unmoved = (line, column);
    let Some(first) = text.lines().nth(usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX)) else {
        return unmoved;
    };
    let rest: String = first.chars().skip(usize::try_from(column.saturating_sub(1)).unwrap_or(0)).collect();
    let quoted = rest.starts_with(['"', '\'']);
    let opening = usize::from(quoted);
    let before: String = rest.chars().skip(opening).take(offset).collect();
    let folded = rest.starts_with(['|', '>']) || before.chars().count() < offset;
    let escaped = quoted && (before.contains('\\') || before.contains("''"));
    if folded || escaped { unmoved } else { (line, column + (opening + offset) as u64) }
}

#[cfg(test)]
mod tests;
