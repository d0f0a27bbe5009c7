//! The reference of the gRPC API: services, messages and enums, with what the contract's files say of each.

use std::collections::HashMap;
use std::fmt::Write;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
};
use tessera_api::proto::DESCRIPTORS;

use crate::pages;

const PAGE: &str = "deploy/docs/api.md";

const HEAD: &str = "\
# The gRPC API

<!-- Generated from the files under proto/: see tests/docs.rs. -->

Every service, method, message and enum, as the files under [`proto/`](../../proto) have them. Clients speak to the gateway,
at one address. It also answers `grpc.health.v1.Health` and reflection (v1 and v1alpha), so that `grpcurl` and the like
need no files:

```sh
grpcurl -plaintext localhost:50051 list
grpcurl -plaintext localhost:50051 describe tessera.gateway.v1.Gateway
```

A *handle*, or key, is 32 bytes in messages and 64 hexadecimal digits where people read it. Types are those of protobuf;
*optional* means that \"left out\" and \"zero\" are two things. Who asks is said by the metadata `authorization: Bearer TOKEN`
where the gateway wants to know; a deadline (`grpc-timeout`) and leaving travel to everybody who works on a request.
What goes wrong is a status with details: [errors.md](errors.md). Nothing is ever taken out of a package `v1`, or changed in
what it means; fields, methods and values are added.
";

/// Packages in the order of the page, and whom they are for.
const PACKAGES: [(&str, &str); 5] = [
    ("tessera.gateway.v1", "For clients."),
    ("tessera.embedding.v1", "For clients, from the gateway; between the workers as well."),
    ("inference", "For clients of the Open Inference Protocol, from the gateway."),
    ("tessera.vision.v1", "Between gateway and vision workers; no client needs it."),
    ("tessera.language.v1", "Between gateway and language workers; no client needs it."),
];

/// Numbers of the fields of a descriptor, which name a place in its file.
const PACKAGE: i32 = 2;
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const SYNTAX: i32 = 12;
const NESTED_MESSAGES: i32 = 3;
const NESTED_ENUMS: i32 = 4;
const MEMBERS: i32 = 2;

/// A file of the contract with the comments in it.
struct File<'a> {
    package: &'a str,
    descriptor: &'a FileDescriptorProto,
    comments: HashMap<&'a [i32], String>,
}

/// The page while it is written.
struct Writer<'a> {
    /// Comments of messages and enums, by full name.
    about: &'a HashMap<String, String>,
    file: &'a File<'a>,
    text: String,
}

impl<'a> File<'a> {
    fn new(descriptor: &'a FileDescriptorProto) -> Self {
        let places = descriptor.source_code_info.iter().flat_map(|info| &info.location);
        let comments = places.filter_map(|place| {
            let comment = place.leading_comments.as_deref().or(place.trailing_comments.as_deref())?;
            let comment = comment.lines().map(str::trim).collect::<Vec<_>>().join("\n");
            Some((place.path.as_slice(), comment.trim().to_owned()))
        });
        Self { package: descriptor.package(), descriptor, comments: comments.collect() }
    }

    fn comment(&self, path: &[i32]) -> &str {
        self.comments.get(path).map_or("", String::as_str)
    }

    /// Every message and enum by its full name, with its comment.
    fn types(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, message) in (0..).zip(&self.descriptor.message_type) {
            self.types_of(self.package, message, &[MESSAGES, index], &mut found);
        }
        for (index, of) in (0..).zip(&self.descriptor.enum_type) {
            found.push((full_name(self.package, of.name()), self.comment(&[ENUMS, index]).to_owned()));
        }
        found
    }

    fn types_of(&self, scope: &str, message: &DescriptorProto, path: &[i32], found: &mut Vec<(String, String)>) {
        let name = full_name(scope, message.name());
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.types_of(&name, nested, &[path, &[NESTED_MESSAGES, index]].concat(), found);
        }
        for (index, of) in (0..).zip(&message.enum_type) {
            let comment = self.comment(&[path, &[NESTED_ENUMS, index]].concat());
            found.push((full_name(&name, of.name()), comment.to_owned()));
        }
        found.push((name, self.comment(path).to_owned()));
    }
}

impl Writer<'_> {
    fn file(&mut self) {
        let File { package, descriptor, .. } = *self.file;
        for about in [SYNTAX, PACKAGE] {
            self.comment(&[about]);
        }
        for (index, service) in (0..).zip(&descriptor.service) {
            self.service(service, &[SERVICES, index]);
        }
        for (index, message) in (0..).zip(&descriptor.message_type) {
            self.message(package, message, &[MESSAGES, index]);
        }
        for (index, of) in (0..).zip(&descriptor.enum_type) {
            self.enumeration(package, of, &[ENUMS, index]);
        }
    }

    fn service(&mut self, service: &ServiceDescriptorProto, path: &[i32]) {
        let name = full_name(self.file.package, service.name());
        self.heading(&name, &format!("Service {}", service.name()), path);
        for (index, method) in (0..).zip(&service.method) {
            let path = [path, &[MEMBERS, index]].concat();
            let (input, output) = (method_side(method, true), method_side(method, false));
            let _ = write!(self.text, "\n**{}**: {input} → {output}\n", method.name());
            self.comment(&path);
        }
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto, path: &[i32]) {
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        let name = full_name(scope, message.name());
        self.heading(&name, &short_name(&name, self.file.package), path);
        if message.field.is_empty() {
            self.text.push_str("\nIt has no fields.\n");
        } else {
            self.text.push_str("\n| field | type | meaning |\n|---|---|---|\n");
        }
        for (index, field) in (0..).zip(&message.field) {
            let of = self.field_type(message, field);
            let comment = self.file.comment(&[path, &[MEMBERS, index]].concat()).to_owned();
            let meaning = if comment.is_empty() { self.first_sentence(field) } else { comment };
            let _ = writeln!(self.text, "| `{}` | {of} | {} |", field.name(), cell(&meaning));
        }
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(&name, nested, &[path, &[NESTED_MESSAGES, index]].concat());
        }
        for (index, of) in (0..).zip(&message.enum_type) {
            self.enumeration(&name, of, &[path, &[NESTED_ENUMS, index]].concat());
        }
    }

    fn enumeration(&mut self, scope: &str, of: &EnumDescriptorProto, path: &[i32]) {
        let name = full_name(scope, of.name());
        self.heading(&name, &short_name(&name, self.file.package), path);
        self.text.push_str("\n| value | number | meaning |\n|---|---|---|\n");
        for (index, value) in (0..).zip(&of.value) {
            let meaning = cell(self.file.comment(&[path, &[MEMBERS, index]].concat()));
            let _ = writeln!(self.text, "| `{}` | {} | {meaning} |", value.name(), value.number());
        }
    }

    fn heading(&mut self, name: &str, shown: &str, path: &[i32]) {
        let _ = write!(self.text, "\n<a id=\"{}\"></a>\n\n### {shown}\n", anchor(name));
        self.comment(path);
    }

    /// A comment as a paragraph.
    fn comment(&mut self, path: &[i32]) {
        let comment = self.file.comment(path);
        if !comment.is_empty() {
            let _ = write!(self.text, "\n{comment}\n");
        }
    }

    /// What a field without words of its own means: what its type is.
    fn first_sentence(&self, field: &FieldDescriptorProto) -> String {
        let about = self.about.get(field.type_name().trim_start_matches('.')).map_or("", String::as_str);
        let about = cell(about);
        about.split_once(". ").map_or(about.clone(), |(first, _)| format!("{first}."))
    }

    fn field_type(&self, message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
        let is_list = field.label() == Label::Repeated;
        let entry = message.nested_type.iter().find(|nested| {
            nested.options.as_ref().is_some_and(|options| options.map_entry())
                && field.type_name().rsplit('.').next() == Some(nested.name())
        });
        match (entry.map(|entry| entry.field.as_slice()), field.oneof_index) {
            (Some([key, value]), _) => format!("map of {} to {}", plain_type(key), plain_type(value)),
            _ if is_list => format!("list of {}", plain_type(field)),
            (_, Some(_)) if field.proto3_optional() => format!("{}, optional", plain_type(field)),
            (_, Some(index)) => {
                let of = message.oneof_decl[index as usize].name();
                format!("{}, one of *{of}*", plain_type(field))
            }
            _ => plain_type(field),
        }
    }
}

fn method_side(method: &MethodDescriptorProto, is_input: bool) -> String {
    let (name, streams) = if is_input {
        (method.input_type(), method.client_streaming())
    } else {
        (method.output_type(), method.server_streaming())
    };
    format!("{}{}", if streams { "stream of " } else { "" }, link(name))
}

fn plain_type(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => link(field.type_name()),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn link(name: &str) -> String {
    let name = name.trim_start_matches('.');
    format!("[{}](#{})", name.rsplit('.').next().unwrap_or(name), anchor(name))
}

fn anchor(name: &str) -> String {
    name.replace('.', "-").to_lowercase()
}

fn full_name(scope: &str, name: &str) -> String {
    format!("{scope}.{name}")
}

/// A name without its package.
fn short_name(name: &str, package: &str) -> String {
    name.trim_start_matches(package).trim_start_matches('.').to_owned()
}

/// Text that stands in a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

fn page(set: &FileDescriptorSet) -> String {
    let files: Vec<File<'_>> = set.file.iter().map(File::new).collect();
    for file in files.iter().filter(|file| !file.package.starts_with("google.")) {
        let is_known = PACKAGES.iter().any(|(package, _)| *package == file.package);
        assert!(is_known, "tests/docs/api.rs: where on the page does {} belong, and whom is it for?", file.package);
    }
    let mut text = HEAD.to_owned();
    let about: HashMap<String, String> = files.iter().flat_map(File::types).collect();
    // Of a package with several files the one with its services comes first.
    let of = |package: &str| {
        let mut of: Vec<_> = files.iter().filter(|file| file.package == package).collect();
        of.sort_by_key(|file| file.descriptor.service.is_empty());
        of
    };
    text.push_str("\n| service | methods |\n|---|---|\n");
    for file in PACKAGES.iter().flat_map(|(package, _)| of(package)) {
        for service in &file.descriptor.service {
            let methods: Vec<_> = service.method.iter().map(|method| format!("`{}`", method.name())).collect();
            let name = full_name(file.package, service.name());
            let _ = writeln!(text, "| [`{name}`](#{}) | {} |", anchor(&name), methods.join(", "));
        }
    }
    for (package, whom) in PACKAGES {
        let _ = write!(text, "\n## {package}\n\n{whom}\n");
        for file in of(package) {
            let mut writer = Writer { about: &about, file, text };
            writer.file();
            text = writer.text;
        }
    }
    text
}

#[test]
fn the_page_of_the_api_is_what_the_contract_says() {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors are a set of files");
    pages::hold(PAGE, &page(&set));
}
