//! What a location runs: the list of `proxy_wasm` directives, how it is inherited, and the chain made of it.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    time::Duration,
};

use weir_core::{
    chain::Chain,
    failure::Policy,
    plan::{ChainId, Isolation},
};

use super::{
    Refusal,
    bodies::{Bodies, Limit, PAUSE},
    failure,
    given::Given,
    main::{Main, filter_name, time},
    place::Place,
};
use crate::{
    calls::allow::Rules,
    host::{Ngx, stream::RequestToken},
    ngx::conf::{Conf, size},
    worker::Runtime,
};

/// The configuration of one `http`, `server`, `location` or `if` block.
#[derive(Debug, Default)]
pub(crate) struct Location {
    draft: RefCell<Draft>,
    effective: OnceCell<Rc<Effective>>,
}

/// The directives of one block; after merging, with what it inherits.
#[derive(Debug, Default, Clone)]
pub(super) struct Draft {
    uses: Option<Uses>,
    isolation: Option<Isolation>,
    failure: Option<Policy>,
    snapshot: Option<bool>,
    singleton: Option<bool>,
    subrequests: Option<bool>,
    request_body: Option<Limit>,
    response_body: Option<Limit>,
    while_paused: Option<bool>,
    pause: Option<Duration>,
    /// `proxy_wasm_allow_calls`
    pub(super) calls: Option<Rc<Rules>>,
}

/// What the `proxy_wasm` directives of one level say.
#[derive(Debug, Clone)]
enum Uses {
    /// `proxy_wasm off;`
    Off,
    /// Filters, in order.
    Filters(Vec<Rc<Use>>),
}

/// One `proxy_wasm NAME ['configuration' [file=PATH] [root_id=ID]];`.
#[derive(Debug)]
pub(crate) struct Use {
    /// The filter, as `module` declares it.
    pub(crate) name: String,
    /// What `on_configure` can read.
    pub(crate) configuration: Vec<u8>,
    /// Which of the module's root contexts is meant, where it has several; empty for the one without a name.
    pub(crate) root_id: String,
    /// Where the directive is.
    pub(crate) place: Place,
}

/// What holds in a location once inheritance is done.
#[derive(Debug)]
pub(crate) struct Effective {
    /// The filters, in order; empty for none.
    pub(crate) uses: Vec<Rc<Use>>,
    /// Which requests share an instance.
    pub(crate) isolation: Isolation,
    failure: Policy,
    /// Whether instances begin where one was that the master has configured.
    pub(crate) snapshot: bool,
    /// Whether root contexts tick in one worker only.
    pub(crate) singleton: bool,
    subrequests: bool,
    bodies: Bodies,
    /// What filters may call.
    pub(crate) calls: Rc<Rules>,
    /// The chain made of `uses`, and the runtime it belongs to.
    pub(crate) chain: OnceCell<(ChainId, Rc<Runtime>)>,
}

impl Location {
    /// Whether requests of this location pass through filters.
    pub(crate) fn has_chain(&self) -> bool {
        self.effective.get().is_some_and(|effective| effective.chain.get().is_some())
    }

    /// Whether subrequests of this location pass through filters too.
    pub(crate) fn subrequests(&self) -> bool {
        self.effective.get().is_some_and(|effective| effective.subrequests)
    }

    /// What holds for bodies, where filters run.
    pub(crate) fn bodies(&self) -> Option<&Bodies> {
        self.effective.get().map(|effective| &effective.bodies)
    }

    /// What filters of this location may call.
    pub(crate) fn call_rules(&self) -> Option<&Rc<Rules>> {
        self.effective.get().map(|effective| &effective.calls)
    }

    /// What becomes of requests whose filters fail.
    pub(crate) fn policy(&self) -> Policy {
        self.effective.get().map(|effective| effective.failure).unwrap_or_default()
    }

    /// Lends what the block says, while it is read.
    pub(super) fn with_draft<T>(&self, edit: impl FnOnce(&mut Draft) -> T) -> T {
        edit(&mut self.draft.borrow_mut())
    }

    /// Begins the location's chain for a request in `place`; does nothing, and answers `None`, where no filter runs, or this
    /// process cannot run one (which has been logged).
    ///
    /// The runtime comes from the location itself, not from the current cycle: without a master process, a
    /// connection that was open before a reload keeps the configuration it came with.
    pub(crate) fn begin(&self, stream: &RequestToken, place: &mut Option<Chain<Ngx>>) -> Option<()> {
        let effective = self.effective.get()?;
        let (chain, runtime) = effective.chain.get()?;
        runtime.shard()?.begin_in(place, effective.failure, *chain, stream);
        Some(())
    }

    /// How long `stream` has to wait at most, since all instances are in use; it is woken when one may be free. `None`
    /// where it need not. `again` says that it has been woken and found none.
    pub(crate) fn wait(&self, stream: &RequestToken, again: bool) -> Option<Duration> {
        let effective = self.effective.get()?;
        let (chain, runtime) = effective.chain.get()?;
        let shard = runtime.shard()?;
        let time = shard.longest_wait();
        if time.is_zero() || shard.has_room_under(effective.failure, *chain) {
            return None;
        }
        if again {
            shard.wait_again(stream);
        } else {
            shard.wait(stream);
        }
        Some(time)
    }

    /// A request that was told of an instance has gone without it: another one that waits is told.
    pub(crate) fn pass_on(&self) {
        let chain = self.effective.get().and_then(|effective| effective.chain.get());
        if let Some(shard) = chain.and_then(|(_, runtime)| runtime.shard()) {
            shard.pass_on();
        }
    }

    /// `proxy_wasm NAME ['configuration' [file=PATH] [root_id=ID]] | off;`
    pub(crate) fn proxy_wasm(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        let mut draft = location.draft.borrow_mut();
        let name = conf.argument(0);
        if name == b"off" && conf.optional(1).is_none() {
            return match draft.uses.replace(Uses::Off) {
                None => Ok(()),
                Some(Uses::Off) => Err(Refusal::duplicate("proxy_wasm off")),
                Some(Uses::Filters(_)) => Err(mixed()),
            };
        }
        let given = Given::read(conf, 1)?;
        if given.vm_id.is_some() {
            return Err("\"vm_id=\" belongs to \"module\": all uses of one share".to_owned().into());
        }
        let one = Rc::new(Use {
            name: filter_name(name)?,
            configuration: given.configuration,
            root_id: given.root_id,
            place: conf.place(),
        });
        match draft.uses.get_or_insert_with(|| Uses::Filters(Vec::new())) {
            Uses::Off => return Err(mixed()),
            Uses::Filters(filters) => filters.push(one),
        }
        Ok(())
    }

    /// `proxy_wasm_isolation auto | none | stream | filter;`
    pub(crate) fn isolation(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        let isolation = match conf.argument(0) {
            b"auto" => Isolation::Auto,
            b"none" => Isolation::None,
            b"stream" => Isolation::Stream,
            b"filter" => Isolation::Filter,
            other => {
                return Err(format!(
                    "invalid value \"{}\" in \"proxy_wasm_isolation\" directive: it must be \"auto\", \"none\", \
                     \"stream\" or \"filter\"",
                    String::from_utf8_lossy(other)
                )
                .into());
            }
        };
        match location.draft.borrow_mut().isolation.replace(isolation) {
            None => Ok(()),
            Some(_) => Err(Refusal::duplicate("proxy_wasm_isolation")),
        }
    }

    /// `proxy_wasm_failure closed | open [status=NUMBER];`
    pub(crate) fn failure(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        let policy = failure::policy(conf.argument(0), conf.optional(1))?;
        set_once(&mut location.draft.borrow_mut().failure, policy, failure::NAME)
    }

    /// `proxy_wasm_snapshot on | off;`
    pub(crate) fn snapshot(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_snapshot";
        set_once(&mut location.draft.borrow_mut().snapshot, flag(conf, NAME)?, NAME)
    }

    /// `proxy_wasm_ticks all | singleton;`
    pub(crate) fn ticks(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_ticks";
        let singleton = match conf.argument(0) {
            b"all" => false,
            b"singleton" => true,
            other => {
                let other = String::from_utf8_lossy(other);
                return Err(format!(
                    "invalid value \"{other}\" in \"{NAME}\" directive, it must be \"all\" or \"singleton\""
                )
                .into());
            }
        };
        set_once(&mut location.draft.borrow_mut().singleton, singleton, NAME)
    }

    /// `proxy_wasm_subrequests on | off;`
    pub(crate) fn subrequests_flag(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_subrequests";
        set_once(&mut location.draft.borrow_mut().subrequests, flag(conf, NAME)?, NAME)
    }

    /// `proxy_wasm_request_body_buffer SIZE [413 | stream];`
    pub(crate) fn request_body_buffer(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_request_body_buffer";
        set_once(&mut location.draft.borrow_mut().request_body, limit(conf, NAME, "413")?, NAME)
    }

    /// `proxy_wasm_response_body_buffer SIZE [502 | stream];`
    pub(crate) fn response_body_buffer(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_response_body_buffer";
        set_once(&mut location.draft.borrow_mut().response_body, limit(conf, NAME, "502")?, NAME)
    }

    /// A filter may hold `size` bytes of a response's body; of more it does not see the rest together. `name` is the
    /// directive that says so.
    pub(super) fn hold_responses(&self, size: usize, name: &str) -> Result<(), Refusal> {
        set_once(&mut self.draft.borrow_mut().response_body, Limit { size, stream: true }, name)
    }

    /// `proxy_wasm_body_while_paused on | off;`
    pub(crate) fn body_while_paused(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_body_while_paused";
        set_once(&mut location.draft.borrow_mut().while_paused, flag(conf, NAME)?, NAME)
    }

    /// `proxy_wasm_pause_timeout TIME;`
    pub(crate) fn pause_timeout(conf: &mut Conf<'_>, location: &Self) -> Result<(), Refusal> {
        const NAME: &str = "proxy_wasm_pause_timeout";
        set_once(&mut location.draft.borrow_mut().pause, time(NAME, conf.argument(0))?, NAME)
    }

    /// Gives `self` what it inherits from the block around it, and tells `main` of the result.
    ///
    /// nginx merges from the outside in (`ngx_http_merge_servers()`, `ngx_http_merge_locations()`), so `outer` has
    /// what it inherits itself.
    pub(crate) fn merge(&self, outer: &Self, main: &Main) {
        let outer = outer.draft.borrow().clone();
        let mut draft = self.draft.borrow_mut();
        draft.inherit(outer);
        let effective = Rc::new(Effective {
            uses: match &draft.uses {
                None | Some(Uses::Off) => Vec::new(),
                Some(Uses::Filters(filters)) => filters.clone(),
            },
            isolation: draft.isolation.unwrap_or(Isolation::Auto),
            failure: draft.failure.unwrap_or_default(),
            snapshot: draft.snapshot.unwrap_or(true),
            singleton: draft.singleton.unwrap_or(false),
            subrequests: draft.subrequests.unwrap_or(false),
            bodies: Bodies {
                request: draft.request_body.unwrap_or_default(),
                response: draft.response_body.unwrap_or_default(),
                while_paused: draft.while_paused.unwrap_or(false),
                pause: draft.pause.unwrap_or(PAUSE),
            },
            calls: draft.calls.clone().unwrap_or_default(),
            chain: OnceCell::new(),
        });
        // nginx merges each block once.
        if self.effective.set(Rc::clone(&effective)).is_ok() {
            main.locations.borrow_mut().push(effective);
        }
    }
}

impl Draft {
    /// Fills what is not said here with what holds outside. A list replaces the outer list as a whole.
    fn inherit(&mut self, outer: Self) {
        if self.uses.is_none() {
            self.uses = outer.uses;
        }
        self.isolation = self.isolation.or(outer.isolation);
        self.failure = self.failure.or(outer.failure);
        self.snapshot = self.snapshot.or(outer.snapshot);
        self.singleton = self.singleton.or(outer.singleton);
        self.subrequests = self.subrequests.or(outer.subrequests);
        self.request_body = self.request_body.or(outer.request_body);
        self.response_body = self.response_body.or(outer.response_body);
        self.while_paused = self.while_paused.or(outer.while_paused);
        self.pause = self.pause.or(outer.pause);
        self.calls = self.calls.take().or(outer.calls);
    }
}

/// Sets what a directive says, which may stand once in a block.
pub(super) fn set_once<T>(place: &mut Option<T>, value: T, name: &str) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::duplicate(name)),
    }
}

/// `on` or `off`, in nginx's words.
fn flag(conf: &Conf<'_>, name: &str) -> Result<bool, Refusal> {
    match conf.argument(0) {
        value if value.eq_ignore_ascii_case(b"on") => Ok(true),
        value if value.eq_ignore_ascii_case(b"off") => Ok(false),
        other => Err(format!(
            "invalid value \"{}\" in \"{name}\" directive, it must be \"on\" or \"off\"",
            String::from_utf8_lossy(other)
        )
        .into()),
    }
}

/// A size, and `status` or `stream`.
fn limit(conf: &Conf<'_>, name: &str, status: &str) -> Result<Limit, Refusal> {
    let Some(size) = size(conf.argument(0)) else {
        let given = String::from_utf8_lossy(conf.argument(0));
        return Err(format!("invalid size \"{given}\" in \"{name}\" directive").into());
    };
    let stream = match conf.optional(1) {
        None => false,
        Some(b"stream") => true,
        Some(beyond) if beyond == status.as_bytes() => false,
        Some(other) => {
            return Err(format!(
                "invalid value \"{}\" in \"{name}\" directive, it must be \"{status}\" or \"stream\"",
                String::from_utf8_lossy(other)
            )
            .into());
        }
    };
    Ok(Limit { size, stream })
}

fn mixed() -> Refusal {
    Refusal::Sentence(
        "\"proxy_wasm off\" and filters exclude each other in the same block: remove one or the other"
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use weir_core::plan::Isolation;

    use super::{Draft, Location, Use, Uses};
    use crate::conf::{main::Main, place::Place};

    fn filters(names: &[&str]) -> Option<Uses> {
        let one = |name: &&str| {
            Rc::new(Use {
                name: (*name).to_owned(),
                configuration: Vec::new(),
                root_id: String::new(),
                place: Place::new(b"nginx.conf", 1),
            })
        };
        Some(Uses::Filters(names.iter().map(one).collect()))
    }

    fn location(uses: Option<Uses>, isolation: Option<Isolation>) -> Location {
        let location = Location::default();
        location.draft.replace(Draft { uses, isolation, ..Draft::default() });
        location
    }

    /// Names of the filters, and the isolation, that hold in the innermost of `levels` (outermost first).
    fn merged(levels: &[Location]) -> (Vec<String>, Isolation) {
        let main = Main::default();
        for pair in levels.windows(2) {
            let [outer, inner] = pair else { continue };
            inner.merge(outer, &main);
        }
        let locations = main.locations.borrow();
        let last = locations.last().expect("a merged location");
        (last.uses.iter().map(|one| one.name.clone()).collect(), last.isolation)
    }

    #[test]
    fn an_inner_list_replaces_the_outer_one() {
        let levels =
            [location(filters(&["a", "b"]), None), location(None, None), location(filters(&["c"]), None)];
        assert_eq!(merged(&levels), (vec!["c".to_owned()], Isolation::Auto));
    }

    #[test]
    fn a_list_is_inherited_through_levels_that_say_nothing() {
        let levels = [location(filters(&["a", "b"]), None), location(None, None), location(None, None)];
        assert_eq!(merged(&levels), (vec!["a".to_owned(), "b".to_owned()], Isolation::Auto));
    }

    #[test]
    fn off_clears_the_list_and_is_inherited_too() {
        let levels = [location(filters(&["a"]), None), location(Some(Uses::Off), None), location(None, None)];
        assert_eq!(merged(&levels), (Vec::new(), Isolation::Auto));
    }

    #[test]
    fn isolation_is_inherited_on_its_own() {
        let levels = [location(filters(&["a"]), Some(Isolation::None)), location(filters(&["b"]), None)];
        assert_eq!(merged(&levels), (vec!["b".to_owned()], Isolation::None));
    }
}
