//! Rules about which crate uses which, on the graph that cargo resolves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    process::Command,
};

use serde_json::Value;

use crate::files::root;

const SERVICES: [&str; 3] = ["tessera-gateway", "tessera-vision", "tessera-language"];

/// Ours, from left to right: a crate may depend only on those in front of it.
const ORDER: [&str; 19] = [
    "tessera-anyres",
    "tessera-tensor",
    "tessera-kernels",
    "tessera-config",
    "tessera-telemetry",
    "tessera-checkpoint",
    "tessera-image",
    "tessera-prompt",
    "tessera-embedding",
    "tessera-store",
    "tessera-api",
    "tessera-model",
    "tessera-rpc",
    "tessera-client",
    "tessera-gateway",
    "tessera-vision",
    "tessera-language",
    "tessera",
    "tessera-tests",
];

/// The packages by name (several versions of one name are one package here) and what each links.
#[derive(Default)]
pub(crate) struct Graph {
    members: BTreeSet<String>,
    links: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// What `cargo metadata` says about this workspace and this kind of machine.
    pub(crate) fn of_the_workspace() -> Self {
        let version = cargo(&["-vV"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
        let arguments = ["metadata", "--format-version", "1", "--offline", "--filter-platform", host];
        Self::from_metadata(&serde_json::from_str(&cargo(&arguments)).expect("metadata is JSON"))
    }

    fn from_metadata(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().expect("metadata has this list");
        let text = |value: &Value| value.as_str().map(str::to_owned).expect("metadata has this text");
        let packages = list(&metadata["packages"]);
        let name: BTreeMap<_, _> =
            packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let mut graph = Self::default();
        graph.members.extend(list(&metadata["workspace_members"]).iter().map(|id| name[&text(id)].clone()));
        for node in list(&metadata["resolve"]["nodes"]) {
            let links = graph.links.entry(name[&text(&node["id"])].clone()).or_default();
            for dependency in list(&node["deps"]) {
                // A kind of null is a normal dependency; `dev` and `build` are not linked.
                if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                    links.insert(name[&text(&dependency["pkg"])].clone());
                }
            }
        }
        assert!(graph.members.contains("tessera"), "cargo must see the workspace");
        graph
    }

    /// For each of `crates` that reaches a package whose name starts with `forbidden`: the way there.
    pub(crate) fn links(&self, crates: &[&str], forbidden: &str) -> Vec<String> {
        crates.iter().filter_map(|start| self.way(start, forbidden)).map(|way| way.join(" -> ")).collect()
    }

    pub(crate) fn services_on_services(&self) -> Vec<String> {
        let between = |start: &&str, end: &&str| start != end && self.direct(start).any(|name| name == *end);
        let pairs = SERVICES.iter().flat_map(|start| SERVICES.iter().map(move |end| (start, end)));
        pairs.filter(|(start, end)| between(start, end)).map(|(start, end)| format!("{start} -> {end}")).collect()
    }

    pub(crate) fn against_the_layers(&self) -> Vec<String> {
        let place = |name: &str| ORDER.iter().position(|known| *known == name);
        let mut wrong = Vec::new();
        for member in self.members.iter().filter(|name| *name != "tessera-testkit") {
            let Some(here) = place(member) else {
                wrong.push(format!("{member} has no place in the layers"));
                continue;
            };
            let ours = self.direct(member).filter(|name| self.members.contains(*name));
            let right = ours.filter(|name| place(name).is_some_and(|there| there >= here));
            wrong.extend(right.map(|name| format!("{member} -> {name}")));
        }
        wrong
    }

    pub(crate) fn candle_outside_the_model(&self) -> Vec<String> {
        let others = self.members.iter().filter(|name| *name != "tessera-model");
        let edges = others.flat_map(|member| self.direct(member).map(move |name| (member, name)));
        edges
            .filter(|(_, name)| name.starts_with("candle"))
            .map(|(member, name)| format!("{member} -> {name}"))
            .collect()
    }

    pub(crate) fn testkit_in_products(&self) -> Vec<String> {
        let products = self.members.iter().filter(|name| *name != "tessera-tests");
        let users = products.filter(|member| self.direct(member).any(|name| name == "tessera-testkit"));
        users.map(|member| format!("{member} -> tessera-testkit")).collect()
    }

    fn direct(&self, name: &str) -> impl Iterator<Item = &str> {
        self.links.get(name).into_iter().flatten().map(String::as_str)
    }

    /// The shortest chain of links from `start` to a name with this beginning.
    fn way(&self, start: &str, forbidden: &str) -> Option<Vec<String>> {
        assert!(self.links.contains_key(start), "{start} is no package");
        let mut seen = BTreeSet::from([start]);
        let mut queue = VecDeque::from([vec![start]]);
        while let Some(way) = queue.pop_front() {
            for next in self.direct(way[way.len() - 1]) {
                let longer = [way.as_slice(), &[next]].concat();
                if next.starts_with(forbidden) {
                    return Some(longer.into_iter().map(str::to_owned).collect());
                }
                if seen.insert(next) {
                    queue.push_back(longer);
                }
            }
        }
        None
    }
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

#[cfg(test)]
mod samples {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            for name in [from, to].into_iter().filter(|name| name.starts_with("tessera")) {
                graph.members.insert((*name).to_owned());
            }
            graph.links.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    }

    #[test]
    fn a_forbidden_link_is_found_with_its_way() {
        let graph = graph(&[("tessera-gateway", "helper"), ("helper", "candle-core"), ("helper", "serde")]);
        assert_eq!(graph.links(&["tessera-gateway"], "candle"), ["tessera-gateway -> helper -> candle-core"]);
        assert!(graph.links(&["tessera-gateway"], "tonic").is_empty());
    }

    #[test]
    fn a_service_on_a_service_is_found() {
        let graph = graph(&[("tessera-gateway", "tessera-vision"), ("tessera", "tessera-gateway")]);
        assert_eq!(graph.services_on_services(), ["tessera-gateway -> tessera-vision"]);
    }

    #[test]
    fn a_dependency_to_the_right_and_a_stranger_are_found() {
        let graph =
            graph(&[("tessera-image", "tessera-anyres"), ("tessera-tensor", "tessera-rpc"), ("tessera-x", "serde")]);
        let expected = ["tessera-tensor -> tessera-rpc", "tessera-x has no place in the layers"];
        assert_eq!(graph.against_the_layers(), expected);
    }

    #[test]
    fn a_second_user_of_candle_is_found() {
        let graph = graph(&[("tessera-model", "candle-core"), ("tessera-image", "candle-nn")]);
        assert_eq!(graph.candle_outside_the_model(), ["tessera-image -> candle-nn"]);
    }

    #[test]
    fn a_product_with_the_testkit_is_found() {
        let graph = graph(&[("tessera-tests", "tessera-testkit"), ("tessera-model", "tessera-testkit")]);
        assert_eq!(graph.testkit_in_products(), ["tessera-model -> tessera-testkit"]);
    }

    #[test]
    fn only_normal_dependencies_are_links() {
        let metadata = serde_json::json!({
            "packages": [{"id": "1", "name": "tessera"}, {"id": "2", "name": "serde"}, {"id": "3", "name": "tempfile"}],
            "workspace_members": ["1"],
            "resolve": {"nodes": [{"id": "1", "deps": [
                {"pkg": "2", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                {"pkg": "3", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]},
            ]}]},
        });
        assert_eq!(Graph::from_metadata(&metadata).direct("tessera").collect::<Vec<_>>(), ["serde"]);
    }
}
