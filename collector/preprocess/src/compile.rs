//! From feature files to a [`Catalog`], or to every problem that they have.

pub(crate) mod births;
mod csv;
mod date;
mod files;
mod lower;
mod names;
mod section;
mod types;
mod views;

use std::sync::Arc;

use crate::attributes::Attributes;
use crate::graph::{Catalog, Kind, Service, View};
use crate::problem::{Problem, SourceFile, nearest};
use files::{RawFile, RawKind, RawService};
use section::{Report, Word};

/// Compiles the feature files; `attributes` reads an `attributes_file` by its name.
///
/// *Errors*: every problem of every file, with its place, in the order of files and lines.
pub fn compile(
    files: &[SourceFile],
    attributes: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Catalog, Vec<Problem>> {
    let reports: Vec<Report<'_>> = files.iter().map(Report::new).collect();
    let raw: Vec<RawFile> = reports.iter().map(files::read).collect();
    let mut catalog = Catalog::default();
    for (report, file) in reports.iter().zip(&raw) {
        for kind_raw in &file.kinds {
            let built = kind(report, kind_raw, attributes);
            if catalog.kinds.iter().any(|known| known.name == built.name) {
                let message = format!("there is another kind {:?}", kind_raw.name.text);
                report.say(kind_raw.name.span.clone(), message);
            }
            catalog.kinds.push(Arc::new(built));
        }
    }
    let scopes = views::Scopes::new(&reports, &raw, &catalog.kinds);
    for (at, file) in raw.iter().enumerate() {
        for view_raw in &file.views {
            let Some((view, recheck)) = scopes.view(&reports, at, view_raw) else { continue };
            let same = |known: &Arc<View>| {
                known.schema.name == view.schema.name && known.schema.version == view.schema.version
            };
            if let (true, Some(report)) = (catalog.views.iter().any(same), reports.get(at)) {
                let message =
                    format!("there is another version {} of {:?}", view_raw.version, view_raw.name.text);
                report.say(view_raw.name.span.clone(), message);
            }
            catalog.views.push(Arc::new(view));
            catalog.rechecks.push(recheck);
        }
    }
    let declared: Vec<&str> = raw.iter().flat_map(|f| &f.view_names).map(String::as_str).collect();
    for (report, file) in reports.iter().zip(&raw) {
        for service_raw in &file.services {
            let built = service(report, service_raw, &catalog, &declared);
            catalog.services.push(built);
        }
    }
    drop(scopes);
    let mut problems: Vec<Problem> = Vec::new();
    for report in reports {
        let mut of_file = report.into_problems();
        of_file.sort_by_key(|problem| (problem.line, problem.column));
        of_file.dedup();
        problems.extend(of_file);
    }
    if problems.is_empty() { Ok(catalog) } else { Err(problems) }
}

fn kind(report: &Report<'_>, raw: &RawKind, read: &dyn Fn(&str) -> Result<String, String>) -> Kind {
    let mut rows = raw.attributes.clone();
    if let Some(Word { text: name, span }) = &raw.attributes_file {
        match read(name) {
            Ok(text) => match csv::read(&text) {
                Ok(more) => rows.extend(more),
                Err(messages) => {
                    messages.iter().for_each(|m| report.say(span.clone(), format!("{name}, {m}")));
                }
            },
            Err(reason) => report.say(span.clone(), format!("{name} cannot be read: {reason}")),
        }
    }
    rows.sort_by_key(|row| row.valid_from_us);
    Kind {
        name: raw.name.text.as_str().into(),
        machines: raw.machines.iter().map(|word| word.text.clone()).collect(),
        attributes: Attributes { rows },
    }
}

fn service(report: &Report<'_>, raw: &RawService, catalog: &Catalog, declared: &[&str]) -> Service {
    let mut chosen: Vec<(Arc<View>, Vec<usize>)> = Vec::new();
    for word in &raw.features {
        let (name, feature) = match word.text.split_once(':') {
            Some((view, feature)) => (view, Some(feature)),
            None => (word.text.as_str(), None),
        };
        let Some(view) = catalog.view(name) else {
            // A view that has problems of its own is not told again.
            if !declared.contains(&name) {
                let hint = nearest(name, declared.iter().copied());
                report.suggest(word.span.clone(), format!("there is no feature view {name:?}"), hint);
            }
            continue;
        };
        let all = || 0..view.schema.features.len();
        let wanted: Vec<usize> = match feature {
            None => all().collect(),
            Some(feature) => {
                let found = view.schema.features.iter().position(|f| &*f.name == feature);
                if found.is_none() {
                    let hint = nearest(feature, view.schema.features.iter().map(|f| &*f.name));
                    report.suggest(word.span.clone(), format!("{name} has no feature {feature:?}"), hint);
                }
                found.into_iter().collect()
            }
        };
        match chosen.iter_mut().find(|(known, _)| Arc::ptr_eq(known, view)) {
            Some((_, places)) => {
                places.extend(wanted.iter().filter(|at| !places.contains(at)).copied().collect::<Vec<_>>());
            }
            None => chosen.push((Arc::clone(view), wanted)),
        }
    }
    Service { name: raw.name.text.as_str().into(), features: chosen }
}

#[cfg(test)]
mod tests;
