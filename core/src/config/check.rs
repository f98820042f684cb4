//! From values to a [`Config`]: table by table, so that a mistake in one hides none in another.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use figment::value::{Dict, Value};

use super::clean::Cleaner;
use super::layers::Environment;
use super::origin::Origins;
use super::path::KeyPath;
use super::raw::{
    RawBus, RawConfig, RawEndpoint, RawFilter, RawIp, RawNetwork, RawPolicy, RawRetry, RawServer,
    RawToken,
};
use super::report::Report;
use super::schema::{SINK_DEFAULT, Schema, nearest};
use super::{
    BacklogSettings, BusSettings, Config, ConfigError, EndpointConfig, MemorySettings,
    NetworkPolicy, ServerSettings, Token,
};
use crate::alert;
use crate::endpoint::{
    Breaker, CONCURRENCY_DEFAULT, Concurrency, DISABLE_AFTER_DEFAULT, EndpointId, Policy,
    TIMEOUT_DEFAULT,
};
use crate::filter::Filter;
use crate::retry;
use crate::sink::{CheckContext, PreparedSink, Registry};
use crate::store::{self, PreparedStore};

/// What the checks need beside the values.
pub(super) struct Given<'a> {
    pub(super) registry: &'a Registry,
    pub(super) stores: &'a store::Registry,
    pub(super) schema: &'a Schema,
    pub(super) environment: &'a Environment,
    pub(super) origins: &'a Origins,
    /// Whether unknown keys of files are only warned of.
    pub(super) is_lenient: bool,
}

/// Checks everything; all mistakes, or the configuration and its warnings.
pub(super) fn check(tree: &Value, given: &Given<'_>) -> Result<Config, Vec<ConfigError>> {
    let mut checker = Checker { given, report: Report::new(given.schema, tree, given.origins) };
    let mut root = tree.as_dict().cloned().unwrap_or_default();
    let endpoints = root.remove("endpoints");
    let mut root = match checker.clean(Value::from(root), given.schema.root(), &KeyPath::default())
    {
        Value::Dict(_, root) => root,
        _ => Dict::new(),
    };
    let (defaults, inherited) = checker.split_defaults(root.remove("defaults"));
    let server = checker.server(root.remove("server"));
    let store = match root.get_mut("bus") {
        Some(Value::Dict(_, bus)) => bus.remove("store"),
        _ => None,
    };
    let raw = checker.report.read(
        Value::from(root),
        &KeyPath::default(),
        Value::deserialize::<RawConfig>,
    );
    let raw = raw.unwrap_or_default();

    let network = checker.network(&raw.network);
    let bus = checker.bus(raw.bus);
    let store = checker.store(store, bus.data_dir.is_some());
    let config = Config {
        enabled: raw.enabled,
        bus,
        store,
        alerts: alert::Policy::default()
            .failing_after(raw.alerts.failing_after)
            .backlog_events(raw.alerts.backlog_events)
            .interval(raw.alerts.interval.0),
        server,
        endpoints: checker.endpoints(endpoints, &defaults, &inherited, &network),
        network,
        warnings: Vec::new(),
        path: None,
        document: None,
    };
    if config.bus.data_dir.is_none() && config.store.is_none() {
        let path = KeyPath::default().key("bus").key("data_dir");
        let warning = "not set: accepted events are kept in memory, and lost when the process ends";
        let warning = checker.report.error(&path, warning);
        checker.report.warnings.push(warning.remedy("set it to a folder"));
    }
    let Report { errors, warnings, .. } = checker.report;
    if errors.is_empty() { Ok(Config { warnings, ..config }) } else { Err(errors) }
}

struct Checker<'g, 'r> {
    given: &'g Given<'g>,
    report: Report<'r>,
}

impl Checker<'_, '_> {
    fn clean(&mut self, value: Value, node: &serde_json::Value, path: &KeyPath) -> Value {
        let Given { environment, is_lenient, .. } = *self.given;
        Cleaner { report: &mut self.report, environment, is_lenient }.clean(value, node, path)
    }

    /// The common policy of `[defaults]`, and the rest, which is the sinks'. The sinks' part is
    /// taken as written: each endpoint checks what it inherits by its own sink.
    fn split_defaults(&mut self, cleaned: Option<Value>) -> (RawPolicy, Dict) {
        let path = KeyPath::default().key("defaults");
        let (policy, _) = self.split(cleaned.unwrap_or_else(|| Value::from(Dict::new())));
        let policy = self.policy(policy, &path);
        let written = self.report.tree.find_ref("defaults").and_then(Value::as_dict).cloned();
        let settings = written.unwrap_or_default().into_iter();
        let settings = settings.filter(|(key, _)| !self.given.schema.is_policy(key));
        (policy, settings.collect())
    }

    /// The keys of the common policy, and the others.
    fn split(&self, table: Value) -> (Value, Dict) {
        match table {
            Value::Dict(_, table) => {
                let (policy, rest): (Dict, Dict) =
                    table.into_iter().partition(|(key, _)| self.given.schema.is_policy(key));
                (Value::from(policy), rest)
            }
            // No table at all: reading it says so.
            other => (other, Dict::new()),
        }
    }

    fn policy(&mut self, table: Value, path: &KeyPath) -> RawPolicy {
        let policy = self.report.read(table, path, Value::deserialize::<RawPolicy>);
        let policy = policy.unwrap_or_default();
        if let Some(retry) = &policy.retry {
            self.retry(retry, &path.key("retry"));
        }
        policy
    }

    /// Delays are listed or they grow.
    fn retry(&mut self, retry: &RawRetry, path: &KeyPath) {
        let grow = [
            ("first", retry.first.is_some()),
            ("factor", retry.factor.is_some()),
            ("max", retry.max.is_some()),
            ("attempts", retry.attempts.is_some()),
        ];
        let given = grow.iter().find(|(_, is_given)| *is_given).map(|(key, _)| *key);
        let (path, message, remedy) = match given {
            Some(key) if retry.schedule.is_some() => {
                (path.key(key), "cannot stand beside a schedule", "take one of the two out")
            }
            Some(key) if retry.first.is_none() => (
                path.key(key),
                "means nothing without the first delay",
                "add first, such as \"5s\", or take it out",
            ),
            Some(_) if retry.attempts.is_none() => (
                path.key("first"),
                "needs attempts: how many there are in all",
                "add attempts, such as 8",
            ),
            _ => return,
        };
        let error = self.report.error(&path, message).remedy(remedy);
        self.report.push(&path, error);
    }

    fn bus(&mut self, raw: RawBus) -> BusSettings {
        let path = KeyPath::default().key("bus");
        if self.report.is_clean(&path) {
            let ordered = [
                (
                    "payload_bytes_max",
                    raw.payload_bytes_max,
                    raw.batch_bytes_max,
                    "batch_bytes_max",
                ),
                ("batch_bytes_max", raw.batch_bytes_max, raw.memory.bytes_max, "memory.bytes_max"),
                (
                    "batch_bytes_max",
                    raw.batch_bytes_max,
                    raw.backlog.bytes_max,
                    "backlog.bytes_max",
                ),
            ];
            for (key, low, high, bound) in ordered {
                if low > high {
                    let path = path.key(key);
                    let message = format!("expected at most bus.{bound} ({high})");
                    let error = self.report.error(&path, message).found(low.to_string());
                    let error = error.remedy(format!("lower it, or raise bus.{bound}"));
                    self.report.push(&path, error);
                }
            }
        }
        BusSettings {
            data_dir: raw.data_dir.map(PathBuf::from),
            payload_bytes_max: raw.payload_bytes_max,
            batch_events_max: raw.batch_events_max,
            batch_bytes_max: raw.batch_bytes_max,
            durability: raw.durability.0,
            retention: raw.retention.0,
            dedup_window: raw.dedup_window.0,
            backlog: BacklogSettings {
                events_max: raw.backlog.events_max,
                bytes_max: raw.backlog.bytes_max,
            },
            memory: MemorySettings {
                events_max: raw.memory.events_max,
                bytes_max: raw.memory.bytes_max,
            },
            when_full: raw.when_full,
            in_flight_max: raw.in_flight_max,
            subscriber_events_max: raw.subscriber_events_max,
        }
    }

    /// The store that is named, its settings read and checked by its factory.
    fn store(&mut self, table: Option<Value>, has_folder: bool) -> Option<PreparedStore> {
        let path = KeyPath::default().key("bus").key("store");
        let (tag, mut table) = match table {
            None | Some(Value::Empty(..)) => return None,
            Some(Value::Dict(tag, table)) => (tag, table),
            Some(other) => {
                let found = self.report.show(&other, &path);
                let error = self.report.error(&path, "expected a table").found(found);
                self.report.push(&path, error);
                return None;
            }
        };
        if has_folder {
            let message = "cannot stand beside bus.data_dir: events are kept in one place";
            let error = self.report.error(&path, message);
            self.report.push(&path, error.remedy("remove one of the two"));
        }
        let kind_path = path.key("type");
        let kind = match table.remove("type") {
            Some(Value::String(_, kind)) => kind,
            None | Some(Value::Empty(..)) => {
                if !self.report.is_bad(&kind_path) {
                    self.report.missing(&kind_path);
                }
                return None;
            }
            Some(other) => {
                let found = self.report.show(&other, &kind_path);
                let error = self.report.error(&kind_path, "expected text").found(found);
                self.report.push(&kind_path, error);
                return None;
            }
        };
        if !self.given.stores.names().any(|name| name == kind) {
            self.no_store(&kind, &kind_path);
            return None;
        }
        let store = self.report.read(Value::Dict(tag, table), &path, |settings| {
            self.given
                .stores
                .prepare(&kind, settings)
                .expect("the store is known")
                .map_err(|error| *error)
        })?;
        for problem in store.check() {
            let path = path.join(&KeyPath::parse(&problem.key));
            let error = self.report.error(&path, problem.message).remedy(problem.remedy);
            self.report.push(&path, error);
        }
        Some(store)
    }

    fn no_store(&mut self, kind: &str, path: &KeyPath) {
        let names: Vec<&str> = self.given.stores.names().collect();
        let error = self.report.error(path, "this build has no such store");
        let error = error.found(self.report.show(&Value::from(kind), path));
        let error = match nearest(kind, names.iter().copied()) {
            Some(nearest) => error.remedy(format!("did you mean {nearest:?}?")),
            None if names.is_empty() => {
                error.remedy("remove bus.store and set bus.data_dir for the built-in one")
            }
            None => error.remedy(format!(
                "this build has {}; for the built-in one set bus.data_dir",
                names.join(", ")
            )),
        };
        self.report.push(path, error);
    }

    /// Tokens are read one by one, so that a mistake in one moves no other to a wrong position.
    fn server(&mut self, table: Option<Value>) -> ServerSettings {
        let path = KeyPath::default().key("server");
        let mut table = table.unwrap_or_else(|| Value::from(Dict::new()));
        let tokens = match &mut table {
            Value::Dict(_, table) => table.remove("tokens"),
            _ => None,
        };
        let raw = self.report.read(table, &path, Value::deserialize::<RawServer>);
        let mut first: HashMap<String, KeyPath> = HashMap::new();
        let mut checked = Vec::new();
        for (path, token) in self.elements(tokens, &path.key("tokens")) {
            let Some(raw) = self.report.read(token, &path, Value::deserialize::<RawToken>) else {
                continue;
            };
            if raw.token.expose().trim().is_empty() {
                self.report.fail(&path.key("token"), "expected a token, found none");
            }
            if let Some(other) = first.get(&raw.name) {
                let place = self.report.origin(other).place();
                let message = format!("already the name of {other} ({place})");
                let error = self.report.error(&path.key("name"), message);
                self.report.push(&path.key("name"), error.remedy("give one of them another name"));
            } else {
                first.insert(raw.name.clone(), path);
            }
            checked.push(Token { name: raw.name, token: raw.token, scopes: raw.scopes });
        }
        ServerSettings { listen: raw.unwrap_or_default().listen.0, tokens: checked }
    }

    /// The tables of a list, each with its path.
    fn elements(&mut self, list: Option<Value>, path: &KeyPath) -> Vec<(KeyPath, Value)> {
        match list {
            None | Some(Value::Empty(..)) => Vec::new(),
            Some(Value::Array(_, items)) => items
                .into_iter()
                .enumerate()
                .map(|(index, value)| (path.index(index), value))
                .collect(),
            Some(other) => {
                let found = self.report.show(&other, path);
                let error = self.report.error(path, "expected a list of tables").found(found);
                let is_text = self.report.raw_text(path).is_some();
                let remedy = if is_text { "write JSON: [{ … }]" } else { "" };
                self.report.push(path, error.remedy(remedy));
                Vec::new()
            }
        }
    }

    fn network(&mut self, raw: &RawNetwork) -> NetworkPolicy {
        const CHECKED: &str = "checked when it was read";
        let mut policy = NetworkPolicy::public_only();
        for network in &raw.allow {
            policy = policy.allow(&network.0).expect(CHECKED);
        }
        for network in &raw.deny {
            policy = policy.deny(&network.0).expect(CHECKED);
        }
        if let Some(ports) = &raw.ports {
            policy = policy.only_ports(ports.iter().copied());
        }
        if raw.https_only {
            policy = policy.https_only();
        }
        if let [RawIp(first), RawIp(second)] = &raw.bind_address[..]
            && first.is_ipv4() == second.is_ipv4()
        {
            let path = KeyPath::default().key("network").key("bind_address").index(1);
            let error = self.report.error(&path, "a second address of the same family");
            self.report.push(&path, error.remedy("give one of IPv4, one of IPv6 or both"));
        }
        if let Some(proxy) = &raw.proxy {
            if !proxy.expose().starts_with("http://") {
                let path = KeyPath::default().key("network").key("proxy");
                let error = self.report.error(&path, "expected an http URL");
                self.report.push(&path, error.remedy("write \"http://HOST:PORT\""));
            }
            policy = policy.through(proxy.clone());
        }
        policy.bind(raw.bind_address.iter().map(|address| address.0))
    }

    fn endpoints(
        &mut self,
        endpoints: Option<Value>,
        defaults: &RawPolicy,
        inherited: &Dict,
        network: &NetworkPolicy,
    ) -> Vec<EndpointConfig> {
        let endpoints = self.elements(endpoints, &KeyPath::default().key("endpoints"));
        let mut checked: Vec<EndpointConfig> = Vec::with_capacity(endpoints.len());
        let mut first: HashMap<EndpointId, KeyPath> = HashMap::new();
        for (path, endpoint) in endpoints {
            let found = self.endpoint(endpoint, &path, defaults, inherited, network);
            // Looked through for each value, so that it must not grow with the endpoints.
            self.report.inherited.clear();
            let Some(endpoint) = found else { continue };
            if let Some(other) = first.get(&endpoint.id) {
                let place = self.report.origin(other).place();
                let message = format!("id {:?} is already that of {other} ({place})", endpoint.id);
                let error = self.report.error(&path, message);
                let error = error.remedy("give one of them an id of its own");
                self.report.push(&path, error);
            } else {
                first.insert(endpoint.id.clone(), path);
            }
            checked.push(endpoint);
        }
        checked
    }

    fn endpoint(
        &mut self,
        endpoint: Value,
        path: &KeyPath,
        defaults: &RawPolicy,
        inherited: &Dict,
        network: &NetworkPolicy,
    ) -> Option<EndpointConfig> {
        let Value::Dict(tag, mut table) = endpoint else {
            let found = self.report.show(&endpoint, path);
            let error = self.report.error(path, "expected a table").found(found);
            self.report.push(path, error);
            return None;
        };
        let sink = match table.get("sink") {
            None | Some(Value::Empty(..)) => SINK_DEFAULT.to_owned(),
            Some(Value::String(_, name)) => name.clone(),
            Some(other) => {
                let error = self.report.error(&path.key("sink"), "expected text");
                let error = error.found(self.report.show(other, &path.key("sink")));
                self.report.push(&path.key("sink"), error);
                return None;
            }
        };
        let is_known = self.given.registry.names().any(|name| name == sink);
        if !is_known {
            self.no_sink(&sink, &path.key("sink"));
        }

        let node = self.given.schema.endpoint(&Value::Dict(tag, table.clone()));
        for (key, value) in inherited {
            if node["properties"].get(key).is_some() {
                let (to, from) = (path.key(key), KeyPath::default().key("defaults").key(key));
                inherit(&mut table, key, value, (to, from), &mut self.report.inherited);
            }
        }
        // Of a sink that nobody knows, the common keys can still be checked.
        let Value::Dict(_, table) = self.clean(Value::Dict(tag, table), node, path) else {
            return None;
        };
        let (identity, rest): (Dict, Dict) =
            table.into_iter().partition(|(key, _)| self.given.schema.is_identity(key));
        let (policy, settings) = self.split(Value::from(rest));
        let identity =
            self.report.read(Value::from(identity), path, Value::deserialize::<RawEndpoint>)?;
        let policy = self.policy(policy, path);
        let policy = merge_policies(policy, defaults);
        if !is_known {
            return None;
        }
        let sink = self.report.read(Value::from(settings), path, |settings| {
            self.given
                .registry
                .prepare(&sink, settings)
                .expect("the sink is known")
                .map_err(|error| *error)
        })?;
        self.finish(identity, policy, sink, path, network)
    }

    /// Id, name and the sink's own checks.
    fn finish(
        &mut self,
        raw: RawEndpoint,
        policy: Policy,
        sink: PreparedSink,
        path: &KeyPath,
        network: &NetworkPolicy,
    ) -> Option<EndpointConfig> {
        let id = match &raw.id {
            None => None,
            Some(id) => match id.0.parse::<EndpointId>() {
                Ok(id) => Some(id),
                Err(error) => {
                    let path = path.key("id");
                    let message = error.to_string();
                    let message = message.split(", found ").next().unwrap_or_default();
                    let found = self.report.show(&Value::from(id.0.as_str()), &path);
                    let error = self.report.error(&path, message).found(found);
                    self.report.push(&path, error);
                    return None;
                }
            },
        };
        let name = raw.name.or_else(|| id.as_ref().map(ToString::to_string));
        let name = name.unwrap_or_else(|| {
            host(&sink.target()).map_or_else(|| sink.sink().to_owned(), ToOwned::to_owned)
        });
        let Some(id) = id.or_else(|| EndpointId::from_name(&name)) else {
            let error = self.report.error(&path.key("name"), "no id can be made of this name");
            let error = error.remedy("add an id, such as id = \"shop-1\"");
            self.report.push(&path.key("name"), error);
            return None;
        };
        let filter = self.filter(raw.filter, &path.key("filter"));
        for problem in sink.check(&CheckContext::new(&id, &name, network)) {
            let path = path.join(&KeyPath::parse(&problem.key));
            let error = self.report.error(&path, problem.message).remedy(problem.remedy);
            self.report.push(&path, error);
        }
        Some(EndpointConfig {
            id,
            name,
            enabled: raw.enabled,
            events: raw.events,
            filter,
            policy,
            sink,
        })
    }

    /// Compiles the filter; what is wrong with it is told, each at its own place.
    fn filter(&mut self, raw: Option<RawFilter>, path: &KeyPath) -> Option<Filter> {
        match Filter::new(&raw?.0) {
            Ok(filter) => Some(filter),
            Err(mistakes) => {
                for mistake in mistakes {
                    let path =
                        path.join(&KeyPath::from_names(mistake.path.iter().map(String::as_str)));
                    let error = self.report.error(&path, mistake.message).remedy(mistake.remedy);
                    self.report.push(&path, error);
                }
                None
            }
        }
    }

    fn no_sink(&mut self, sink: &str, path: &KeyPath) {
        let names: Vec<&str> = self.given.registry.names().collect();
        let error = self.report.error(path, "no such sink");
        let error = error.found(self.report.show(&Value::from(sink), path));
        let error = match nearest(sink, names.iter().copied()) {
            Some(nearest) => error.remedy(format!("did you mean {nearest:?}?")),
            None if names.is_empty() => error.remedy("this build has no sinks"),
            None => error.remedy(format!("this build has {}", names.join(", "))),
        };
        self.report.push(path, error);
    }
}

/// Puts a default into a table that lacks it; tables are joined. Notes what was inherited.
///
/// Keys are the same whatever their case: header names are (RFC 9110 §5.1), all others are lower case.
fn inherit(
    table: &mut Dict,
    key: &str,
    default: &Value,
    (to, from): (KeyPath, KeyPath),
    inherited: &mut Vec<(KeyPath, KeyPath)>,
) {
    let own = table.iter_mut().find(|(own, _)| own.eq_ignore_ascii_case(key)).map(|(_, own)| own);
    match (own, default) {
        (None, default) => {
            table.insert(key.to_owned(), default.clone());
            inherited.push((to, from));
        }
        (Some(Value::Dict(_, own)), Value::Dict(_, defaults))
            if !is_reference(own) && !is_reference(defaults) =>
        {
            for (key, default) in defaults {
                inherit(own, key, default, (to.key(key), from.key(key)), inherited);
            }
        }
        (Some(_), _) => {}
    }
}

/// Whether a table says where a secret is read: one value, not a table to be joined.
fn is_reference(table: &Dict) -> bool {
    !table.is_empty() && table.keys().all(|key| key == "env" || key == "file")
}

/// An endpoint's own policy over the defaults. The values were checked by the schema's bounds.
fn merge_policies(own: RawPolicy, defaults: &RawPolicy) -> Policy {
    let concurrency = own.concurrency.or(defaults.concurrency).map(|concurrency| concurrency.0);
    let breaker = own.breaker.or_else(|| defaults.breaker.clone());
    Policy {
        timeout: own.timeout.or(defaults.timeout).map_or(TIMEOUT_DEFAULT, |timeout| timeout.0),
        concurrency: concurrency.unwrap_or(Concurrency::Fixed(CONCURRENCY_DEFAULT)),
        rate: own.rate.or(defaults.rate).map(|rate| rate.0),
        breaker: breaker.map_or_else(|| Some(Breaker::default()), |breaker| breaker.0),
        retry: merge_retries(&own.retry.unwrap_or_default(), defaults.retry.as_ref()),
        order: own.order.or(defaults.order).unwrap_or_default().into(),
        on_dead: own.on_dead.or(defaults.on_dead).unwrap_or_default().into(),
        disable_after: own
            .disable_after
            .or(defaults.disable_after)
            .map_or(Some(DISABLE_AFTER_DEFAULT), |time| time.0),
        when_disabled: own.when_disabled.or(defaults.when_disabled).unwrap_or_default().into(),
    }
}

/// An endpoint's own way to retry over the default one: delays that are listed or that grow are taken
/// from where either is said.
fn merge_retries(own: &RawRetry, defaults: Option<&RawRetry>) -> retry::Policy {
    let says_delays = |retry: &RawRetry| retry.schedule.is_some() || retry.first.is_some();
    let jitter = own.jitter.or_else(|| defaults?.jitter).unwrap_or(retry::JITTER_DEFAULT);
    let max_age = own.max_age.or_else(|| defaults?.max_age).map(|age| age.0);
    let nothing = RawRetry::default();
    let delays = if says_delays(own) { own } else { defaults.unwrap_or(&nothing) };
    let policy = if let Some(first) = delays.first {
        let max = delays.max.map_or(GROWN_DELAY_DEFAULT, |max| max.0);
        let attempts = delays.attempts.unwrap_or(1);
        retry::Policy::exponential(first.0, delays.factor.unwrap_or(2.0), max, attempts, jitter)
    } else {
        let schedule = match &delays.schedule {
            Some(schedule) => schedule.iter().map(|delay| delay.0).collect(),
            None => retry::SCHEDULE_DEFAULT.to_vec(),
        };
        retry::Policy::new(schedule, jitter)
    };
    // Out of bounds here means that an error was reported; then the policy is not used.
    policy.unwrap_or_default().age_max(max_age)
}

/// Longest delay that delays grow to unless set.
const GROWN_DELAY_DEFAULT: Duration = Duration::from_hours(10);

/// The host of a target that is a URL.
fn host(target: &str) -> Option<&str> {
    let (_, rest) = target.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    (!host.is_empty()).then_some(host)
}
