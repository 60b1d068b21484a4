//! One request to a resource: its parameters read, its verb carried out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};

use super::delete::DeleteOptions;
use super::error::ApiError;
use super::http::{Target, json_response};
use super::registry::Resource;
use super::server::{ApiServer, ListOptions, to_bytes};
use super::shape::Shape;
use super::store::{Entry, Filter};
use super::validation::{FieldValidation, Warnings};
use super::watch::WatchOptions;
use super::write::WriteContext;
use crate::objects::apply::{Writer, apply, conflicts_message};
use crate::objects::patch::{PatchError, json_patch, merge_patch};
use crate::objects::selectors::{FieldSelector, LabelSelector};
use crate::objects::strategic::strategic_merge;
use crate::objects::{meta, protobuf};

/// Watches without a time-out end after this.
const DEFAULT_WATCH: Duration = Duration::from_secs(1800);

/// A request, taken apart.
pub(super) struct Call<'a> {
    pub(super) server: &'a ApiServer,
    pub(super) identity: &'a str,
    pub(super) target: Target,
    pub(super) resource: Arc<Resource>,
    pub(super) query: HashMap<String, String>,
    pub(super) shape: Shape,
    pub(super) manager: String,
    pub(super) content_type: String,
    pub(super) validation: FieldValidation,
    pub(super) warnings: Warnings,
}

/// Reads a body as JSON, as protobuf, or as YAML where the content type says so.
///
/// # Errors
/// 400 for what cannot be read, 415 for another form than JSON, YAML and protobuf.
pub(super) fn read_json(body: &[u8], content_type: &str) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    if protobuf::is_protobuf(body) {
        return protobuf::decode(body)
            .map_err(|e| ApiError::bad_request(format!("the body of the request cannot be read as protobuf: {e}")));
    }
    if content_type.starts_with("application/vnd.kubernetes.protobuf") || content_type.starts_with("application/cbor") {
        return Err(ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ));
    }
    serde_json::from_slice(body).or_else(|json_error| {
        if content_type.contains("yaml") {
            serde_yaml::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized: {e}")))
        } else {
            Err(ApiError::bad_request(format!("the object provided is unrecognized: {json_error}")))
        }
    })
}

impl Call<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn dry_run(&self) -> bool {
        self.parameter("dryRun") == Some("All")
    }

    /// `All` is the only value that `dryRun` may have.
    fn check_dry_run(&self, verb: &str) -> Result<(), ApiError> {
        let options = match verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => return Ok(()),
        };
        match self.parameter("dryRun") {
            None | Some("All") => Ok(()),
            Some(other) => {
                let shown = format!("[]string{{\"{other}\"}}");
                Err(ApiError::unsupported_option(options, "dryRun", &shown, &["All"]))
            }
        }
    }

    pub(super) fn run(&self, verb: &str, body: &Bytes) -> Result<Response, ApiError> {
        self.check_dry_run(verb)?;
        let (namespace, name) = (self.target.namespace.as_str(), self.target.name.as_str());
        if name.is_empty() {
            self.server.show_leases(&self.resource.storage);
        } else {
            self.server.show_lease(&self.resource.storage, name);
        }
        match (verb, self.target.subresource.as_str()) {
            ("list", "") => self.list(),
            ("watch", "") => self.watch(),
            ("get", "") => Ok(self.answer(200, &*self.server.get(&self.resource, namespace, name)?)),
            ("get", "status") if self.resource.has_status => {
                Ok(self.answer(200, &*self.server.get(&self.resource, namespace, name)?))
            }
            ("create", "") if name.is_empty() => {
                let object = self.new_object(body)?;
                let entry = self.server.create(&self.resource, namespace, object, &self.context(None, false))?;
                Ok(self.answer(201, &entry))
            }
            ("create", "eviction") if self.resource.is("", "pods") => {
                let answer =
                    self.server.evict(namespace, name, &read_json(body, &self.content_type)?, self.dry_run())?;
                Ok(json_response(201, to_bytes(&answer)))
            }
            ("create", "binding") if self.resource.is("", "pods") => {
                self.server.bind(namespace, name, &read_json(body, &self.content_type)?)?;
                Ok(json_response(
                    201,
                    to_bytes(
                        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
                    ),
                ))
            }
            ("create", "token") if self.resource.is("", "serviceaccounts") => {
                let answer = self.server.token_for(namespace, name, &read_json(body, &self.content_type)?)?;
                Ok(json_response(201, to_bytes(&answer)))
            }
            (_, "log" | "exec" | "attach" | "portforward") if self.resource.is("", "pods") => {
                self.server.get(&self.resource, namespace, name)?;
                let what = &self.target.subresource;
                Err(ApiError::bad_request(format!("a twin runs no containers: pod \"{name}\" has no {what}")))
            }
            (_, sub @ ("ephemeralcontainers" | "approval")) if self.has_part(sub) => match verb {
                "get" => Ok(self.answer(200, &*self.server.get(&self.resource, namespace, name)?)),
                "update" => self.replace(body, self.part(sub)),
                "patch" => self.patch(body, self.part(sub)),
                _ => Err(ApiError::method_not_allowed()),
            },
            (_, "scale") if self.resource.has_scale => self.scale(verb, body),
            ("update", "finalize") if self.resource.is("", "namespaces") => self.replace(body, Some("finalize")),
            ("update", "") => self.replace(body, None),
            ("update", "status") if self.resource.has_status => self.replace(body, Some("status")),
            ("patch", "") => self.patch(body, None),
            ("patch", "status") if self.resource.has_status => self.patch(body, Some("status")),
            ("delete", "") => {
                let answer = self.server.delete(&self.resource, namespace, name, &self.delete_options(body)?)?;
                Ok(json_response(200, to_bytes(&answer)))
            }
            // All namespaces at once is more than anybody may ask for.
            ("deletecollection", "") if self.resource.is("", "namespaces") => Err(ApiError::method_not_allowed()),
            ("deletecollection", "") => {
                let options = self.delete_options(body)?;
                let gone = self.server.delete_collection(&self.resource, &self.filter()?, &options);
                let metadata = json!({"resourceVersion": self.server.store().version().to_string()});
                Ok(json_response(200, self.shape.many(&self.resource, &gone, metadata, self.server.clock().now())))
            }
            (_, "") => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// The body of a create, told by its kind when it breaks off.
    fn new_object(&self, body: &Bytes) -> Result<Value, ApiError> {
        let breaks_off = serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err_and(|e| e.is_eof());
        if breaks_off && !self.content_type.contains("yaml") && !protobuf::is_protobuf(body) {
            let shown = match String::from_utf8_lossy(body) {
                text if text.is_empty() => "<empty>".to_owned(),
                text => text.chars().take(64).collect(),
            };
            return Err(ApiError::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: unexpected end of JSON input ({shown})",
                self.resource.kind
            )));
        }
        read_json(body, &self.content_type)
    }

    fn has_part(&self, subresource: &str) -> bool {
        match subresource {
            "approval" => self.resource.is("certificates.k8s.io", "certificatesigningrequests"),
            _ => self.resource.is("", "pods"),
        }
    }

    /// The name of a subresource that is a view of a part of the object.
    fn part(&self, subresource: &str) -> Option<&'static str> {
        Some(if subresource == "approval" { "approval" } else { "ephemeralcontainers" })
    }

    fn answer(&self, status: u16, entry: &Entry) -> Response {
        let mut response = json_response(status, self.shape.one(&self.resource, entry, self.server.clock().now()));
        for warning in self.warnings.headers() {
            if let Ok(value) = http::HeaderValue::from_str(&warning) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        response
    }

    fn context(&self, subresource: Option<&'static str>, replace: bool) -> WriteContext {
        WriteContext {
            manager: Some(self.manager.clone()),
            dry_run: self.dry_run(),
            subresource,
            replace,
            owners_recorded: false,
            validation: self.validation,
            warnings: self.warnings.clone(),
        }
    }

    fn filter(&self) -> Result<Filter, ApiError> {
        let mut filter = Filter {
            namespace: Some(self.target.namespace.clone()).filter(|n| !n.is_empty()),
            labels: LabelSelector::parse(self.parameter("labelSelector").unwrap_or_default())
                .map_err(ApiError::bad_request)?,
            fields: FieldSelector::parse(self.parameter("fieldSelector").unwrap_or_default(), &self.field_names())
                .map_err(ApiError::bad_request)?,
        };
        if self.resource.group == "events.k8s.io" {
            // Events are stored in the core form, so the new names are read as the old ones.
            let text = self.parameter("fieldSelector").unwrap_or_default();
            let text =
                text.replace("regarding.", "involvedObject.").replace("reportingController", "reportingComponent");
            filter.fields = FieldSelector::parse(&text, &self.resource.selectable).map_err(ApiError::bad_request)?;
        }
        Ok(filter)
    }

    fn field_names(&self) -> Vec<String> {
        let mut names = self.resource.selectable.clone();
        if self.resource.group == "events.k8s.io" {
            names.extend(names.clone().iter().map(|n| {
                n.replace("involvedObject.", "regarding.").replace("reportingComponent", "reportingController")
            }));
        }
        names
    }

    fn version_parameter(&self) -> Result<Option<u64>, ApiError> {
        match self.parameter("resourceVersion") {
            None | Some("0") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
                ))
            }),
        }
    }

    /// `resourceVersionMatch` says how a version is meant, so it needs one, and one that it can be true of.
    fn check_version_match(&self) -> Result<(), ApiError> {
        let Some(given) = self.parameter("resourceVersionMatch") else { return Ok(()) };
        let field = "resourceVersionMatch";
        let (reason, why) = match (given, self.parameter("resourceVersion")) {
            (_, None) => {
                ("FieldValueForbidden", format!("Forbidden: {field} is forbidden unless resourceVersion is provided"))
            }
            ("Exact", Some("0")) => {
                ("FieldValueForbidden", format!("Forbidden: {field} \"exact\" is forbidden for resourceVersion \"0\""))
            }
            ("Exact" | "NotOlderThan", _) => return Ok(()),
            (other, _) => (
                "FieldValueNotSupported",
                format!("Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\", \"\""),
            ),
        };
        let cause = super::write::cause(field, reason, &why);
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]))
    }

    fn list(&self) -> Result<Response, ApiError> {
        let options = ListOptions {
            limit: self.parameter("limit").and_then(|l| l.parse().ok()).unwrap_or(0),
            continue_token: self.parameter("continue").map(str::to_owned),
            version: self.version_parameter()?,
            exact: self.parameter("resourceVersionMatch") == Some("Exact"),
        };
        self.check_version_match()?;
        let page = self.server.list(&self.resource, &self.filter()?, &options)?;
        let mut metadata = json!({"resourceVersion": page.version.to_string()});
        if let Some((token, remaining)) = page.next {
            metadata["continue"] = json!(token);
            // With a selector the server does not count what it has not looked at.
            if self.parameter("labelSelector").is_none() && self.parameter("fieldSelector").is_none() {
                metadata["remainingItemCount"] = json!(remaining);
            }
        }
        Ok(json_response(200, self.shape.many(&self.resource, &page.entries, metadata, self.server.clock().now())))
    }

    fn watch(&self) -> Result<Response, ApiError> {
        let initial = self.parameter("sendInitialEvents") == Some("true");
        if initial
            && (self.parameter("resourceVersionMatch") != Some("NotOlderThan")
                || self.parameter("allowWatchBookmarks") != Some("true"))
        {
            let cause = super::write::cause(
                "sendInitialEvents",
                "FieldValueForbidden",
                "Forbidden: needs resourceVersionMatch=NotOlderThan and allowWatchBookmarks=true",
            );
            return Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", vec![cause]));
        }
        let options = WatchOptions {
            filter: self.filter()?,
            since: if initial { None } else { self.version_parameter()? },
            timeout: self
                .parameter("timeoutSeconds")
                .and_then(|t| t.parse().ok())
                .map_or(DEFAULT_WATCH, Duration::from_secs),
            bookmarks: self.parameter("allowWatchBookmarks") == Some("true"),
            mark_initial_end: initial,
            shape: self.shape,
            identity: self.identity.to_owned(),
        };
        let stream = self.server.watch(self.resource.clone(), options);
        let mut response = json_response(200, Bytes::new());
        *response.body_mut() = Body::from_stream(stream);
        Ok(response)
    }

    fn replace(&self, body: &Bytes, subresource: Option<&'static str>) -> Result<Response, ApiError> {
        let new = read_json(body, &self.content_type)?;
        let context = self.context(subresource, true);
        let (namespace, name) = (self.target.namespace.as_str(), self.target.name.as_str());
        if self.resource.upsert
            && subresource.is_none()
            && self.server.get(&self.resource, namespace, name).is_err()
            && meta::name(&new) == name
        {
            let mut new = new;
            meta::metadata_mut(&mut new).shift_remove("resourceVersion");
            let entry = self.server.create(&self.resource, namespace, new, &context)?;
            return Ok(self.answer(201, &entry));
        }
        let entry =
            self.server.update(&self.resource, &self.target.namespace, &self.target.name, &context, |_| Ok(new))?;
        Ok(self.answer(200, &entry))
    }

    fn patch(&self, body: &Bytes, subresource: Option<&'static str>) -> Result<Response, ApiError> {
        let kind = self.content_type.split(';').next().unwrap_or_default().trim();
        if matches!(kind, "application/apply-patch+yaml" | "application/apply-patch+json") {
            return self.apply(body, subresource);
        }
        let patch = read_json(body, kind)?;
        let (namespace, name) = (self.target.namespace.as_str(), self.target.name.as_str());
        let context = self.context(subresource, false);
        let change = |old: &Value| self.patched(old, &patch, kind);
        if subresource == Some("status")
            && kind != "application/json-patch+json"
            && self.server.is_plain_status(&self.resource, &patch)
            && let Some(entry) = self.server.update_status(&self.resource, namespace, name, &context, change)?
        {
            return Ok(self.answer(200, &entry));
        }
        let entry = self.server.update(&self.resource, namespace, name, &context, change)?;
        Ok(self.answer(200, &entry))
    }

    fn patched(&self, old: &Value, patch: &Value, kind: &str) -> Result<Value, ApiError> {
        let mut new = old.clone();
        match kind {
            "application/json-patch+json" if !patch.is_array() => {
                let is = match patch {
                    Value::Object(_) => "object",
                    Value::String(_) => "string",
                    Value::Number(_) => "number",
                    _ => "bool",
                };
                let why = format!("json: cannot unmarshal {is} into Go value of type jsonpatch.Patch");
                return Err(ApiError::bad_request(why));
            }
            "application/json-patch+json" => json_patch(&mut new, patch).map_err(|e| match e {
                PatchError::Unreadable(_) => ApiError::bad_request(e.to_string()),
                PatchError::DoesNotApply(_) => {
                    let why = "the server rejected our request due to an error in our request";
                    ApiError::new(422, "Invalid", why).with_details()
                }
            })?,
            "application/merge-patch+json" => merge_patch(&mut new, patch),
            "application/strategic-merge-patch+json" if self.resource.strategic => {
                strategic_merge(&mut new, patch, &self.resource.schema()).map_err(|e| ApiError::new(500, "", e))?;
            }
            _ => {
                let kinds = if self.resource.strategic { ", application/strategic-merge-patch+json" } else { "" };
                return Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml{kinds}"
                )));
            }
        }
        // A patch that leaves the resourceVersion out asks for no check.
        if patch["metadata"].get("resourceVersion").is_none() && kind != "application/json-patch+json" {
            meta::metadata_mut(&mut new)
                .insert("resourceVersion".to_owned(), old["metadata"]["resourceVersion"].clone());
        }
        Ok(new)
    }

    fn apply(&self, body: &Bytes, subresource: Option<&'static str>) -> Result<Response, ApiError> {
        if self.parameter("fieldManager").is_none() {
            let cause = super::write::cause(
                "fieldManager",
                "FieldValueRequired",
                "Required value: is required for apply patch",
            );
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
        }
        let mut applied = read_json(body, "application/yaml")?;
        if meta::at(&applied, &["metadata", "managedFields"])
            .is_some_and(|m| m.as_array().is_some_and(|a| !a.is_empty()))
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        meta::metadata_mut(&mut applied).insert("name".to_owned(), json!(self.target.name));
        if let Some(message) = self.resource.message {
            let unknown = crate::objects::typed::normalise(message, &mut applied.clone()).unwrap_or_default();
            if let Some(path) = unknown.first() {
                let why = format!(
                    "failed to create typed patch object ({}/{}; {}, Kind={}): .{path}: field not declared in schema",
                    self.target.namespace,
                    self.target.name,
                    self.resource.api_version(),
                    self.resource.kind
                );
                return Err(ApiError::new(500, "", why));
            }
        }
        let (time, api_version) = (self.server.clock().seconds(), self.resource.api_version());
        let writer = Writer { manager: &self.manager, api_version: &api_version, subresource, time: &time };
        let force = self.parameter("force") == Some("true");
        let merged = |live: Option<&Value>| {
            let result = apply(live, &applied, &self.resource.schema(), &writer, force).map_err(|conflicts| {
                let mut error = ApiError::new(409, "Conflict", conflicts_message(&conflicts));
                for conflict in &conflicts {
                    error = error.because("FieldManagerConflict", &conflict.message(), &conflict.field);
                }
                error
            })?;
            Ok::<Value, ApiError>(result)
        };
        let context = WriteContext { owners_recorded: true, ..self.context(subresource, false) };
        let (namespace, name) = (self.target.namespace.as_str(), self.target.name.as_str());
        let _serial = self.server.shared.write.lock();
        let exists = self.server.get(&self.resource, namespace, name).is_ok();
        if exists {
            let entry =
                self.server.update_locked(&self.resource, namespace, name, &context, |old| merged(Some(old)))?;
            return Ok(self.answer(200, &entry));
        }
        if subresource.is_some() {
            return Err(ApiError::not_found(&self.resource.group, &self.resource.plural, name));
        }
        if meta::text(&applied, &["metadata", "resourceVersion"]).is_some_and(|v| !v.is_empty())
            || !meta::uid(&applied).is_empty()
        {
            return Err(ApiError::conflict(
                &self.resource.group,
                &self.resource.plural,
                name,
                "the object to apply to does not exist",
            ));
        }
        let entry = self.server.create_locked(&self.resource, namespace, merged(None)?, &context)?;
        Ok(self.answer(201, &entry))
    }

    fn scale(&self, verb: &str, body: &Bytes) -> Result<Response, ApiError> {
        let (namespace, name) = (self.target.namespace.as_str(), self.target.name.as_str());
        let entry = match verb {
            "get" => self.server.get_scaled(&self.resource, namespace, name)?,
            "update" => {
                let wanted = read_json(body, &self.content_type)?;
                self.server.set_scale(&self.resource, namespace, name, &self.context(None, false), |_| Ok(wanted))?
            }
            "patch" => {
                let kind = self.content_type.split(';').next().unwrap_or_default().trim();
                let patch = read_json(body, kind)?;
                self.server.set_scale(&self.resource, namespace, name, &self.context(None, false), |old| {
                    self.patched(old, &patch, kind)
                })?
            }
            _ => return Err(ApiError::method_not_allowed()),
        };
        Ok(json_response(200, to_bytes(&self.server.scale_of(&self.resource, &entry))))
    }

    fn delete_options(&self, body: &Bytes) -> Result<DeleteOptions, ApiError> {
        let mut options = DeleteOptions::from_body(&read_json(body, &self.content_type)?);
        if let Some(grace) = self.parameter("gracePeriodSeconds").and_then(|g| g.parse().ok()) {
            options.grace_seconds = Some(grace);
        }
        if let Some(propagation) = self.parameter("propagationPolicy") {
            options.propagation = Some(propagation.to_owned());
        }
        options.dry_run |= self.dry_run();
        match options.propagation.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
            Some(other) => Err(ApiError::unsupported_option(
                "DeleteOptions",
                "propagationPolicy",
                &format!("\"{other}\""),
                &["Foreground", "Background", "Orphan", "nil"],
            )),
        }
    }
}
