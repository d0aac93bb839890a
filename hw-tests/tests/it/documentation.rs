//! What the documentation says of itself: links lead somewhere, and the runbook quotes what the programs can say.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file with an ending below a folder.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| match path.is_dir() {
        true => files(&path, ending),
        false => Vec::from_iter(path.extension().is_some_and(|e| e == ending).then_some(path)),
    });
    found.collect()
}

/// The targets of a page's links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.contains(' '))
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CHANGELOG.md"].map(|page| root().join(page)));
    let (mut seen, mut dead) = (0, Vec::new());
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            seen += 1;
            let file = link.split('#').next().unwrap_or_default();
            if !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 40 && dead.is_empty(), "{seen} links, dead: {dead:#?}");
}

#[test]
fn every_page_of_the_runbook_is_listed_and_every_alarm_listed_is_one_that_the_programs_raise() {
    let folder = root().join("docs/runbook");
    let index = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for page in files(&folder, "md").iter().filter(|page| !page.ends_with("README.md")) {
        let name = page.file_stem().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("[{name}]({name}.md)")), "{name} is not listed");
    }
    let sources = ["agent/src", "collector/src"].map(|folder| files(&root().join(folder), "rs")).concat();
    let said: String = sources.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    // A long text is continued on the next line.
    let said: String = said.split("\\\n").map(str::trim_start).collect();
    let rows = index.lines().filter(|line| line.starts_with("| `") && line.contains("]("));
    let mut alarms = 0;
    for row in rows {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        for alarm in cell.split('`').skip(1).step_by(2).filter(|alarm| alarm.contains(' ')) {
            alarms += 1;
            // Between the dots stands what the program fills in.
            let known = alarm.split('…').any(|part| part.trim().len() > 8 && said.contains(part.trim()));
            assert!(known, "nobody says {alarm:?}");
        }
    }
    assert!(alarms >= 20, "{alarms}");
}
