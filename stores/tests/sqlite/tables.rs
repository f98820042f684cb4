//! A file that an older version wrote is changed when it is opened, and nothing in it is lost.

use std::path::Path;

use postrider::delivery::{Cause, DeadReason, Decision, DeliveryId, State, StateKind};
use postrider::store::{Backlog, Page, Query, Replayed, Store, Target};
use postrider_stores::outbox::Outbox;
use postrider_stores::sqlite::{SqliteOutbox, SqliteStore, rusqlite::Connection};

use crate::support::{at, claim, id, names, publish, settle};

/// A file as version 1 left it: events in each state, named after it; `dead` went to `b` too, where
/// it waits.
fn write_version_1(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("fixtures/tables-1.sql")).unwrap();
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    write_version_1(&path);
    // Several processes may open it at once.
    let opens = (0..4).map(|_| tokio::spawn(SqliteStore::open(path.clone())));
    let opens: Vec<_> = opens.collect();
    let mut stores = Vec::new();
    for open in opens {
        stores.push(open.await.unwrap().unwrap());
    }
    let store = &stores[0];

    let event = async |name: &str| store.event(&name.parse().unwrap()).await.unwrap().unwrap();
    let dead = State::Dead { reason: DeadReason::Exhausted };
    let expect = [
        ("delivered", State::Delivered, 1),
        ("retried", State::Waiting { due: at(20) }, 1),
        ("dead", dead.clone(), 1),
        ("expired", State::Expired, 0),
        ("leased", State::Leased { until: at(40) }, 0),
        ("fresh", State::Waiting { due: at(5) }, 0),
    ];
    for (seconds, (name, state, attempts)) in (0..).zip(&expect) {
        let found = event(name).await;
        assert_eq!(found.accepted_at, at(seconds));
        let first = &found.deliveries[0];
        assert_eq!(first.id, DeliveryId::new(id("a"), name.parse().unwrap()));
        assert_eq!((&first.state, first.attempts_made), (state, *attempts), "{name}");
        assert_eq!(first.attempts.len(), *attempts as usize);
    }
    assert_eq!(event("dead").await.deliveries[1].state, State::Waiting { due: at(100) });
    let attempt = &event("retried").await.deliveries[0].attempts[0];
    assert_eq!((attempt.cause, &attempt.answer[..]), (Some(Cause::Timeout), "it's é"));
    let backlog = |endpoint, ready, delayed, leased| Backlog { endpoint, ready, delayed, leased };
    let mut owed = store.backlog(at(10)).await.unwrap();
    owed.sort_by(|x, y| x.endpoint.cmp(&y.endpoint));
    assert_eq!(owed, [backlog(id("a"), 1, 1, 1), backlog(id("b"), 0, 1, 0)]);

    let find = async |query: Query| {
        let found = store.find(&query, Page::oldest()).await.unwrap();
        found.events.iter().map(|found| found.event.id().to_string()).collect::<Vec<_>>()
    };
    let all = ["delivered", "retried", "dead", "expired", "leased", "fresh", "unmatched"];
    assert_eq!(find(Query::new()).await, all);
    assert_eq!(find(Query::new().since(at(2)).until(at(4))).await, ["dead", "expired"]);
    assert_eq!(find(Query::new().state(StateKind::Unmatched)).await, ["unmatched"]);
    assert_eq!(find(Query::new().of_type("model.uploaded".parse().unwrap())).await, ["unmatched"]);
    assert_eq!(find(Query::new().state(StateKind::Waiting)).await, ["retried", "dead", "fresh"]);
    let mut groups = store.dead().await.unwrap();
    groups.sort_by_key(|group| group.oldest);
    let told: Vec<_> = groups.iter().map(|group| (&group.state, group.oldest)).collect();
    assert_eq!(told, [(&dead, at(2)), (&State::Expired, at(3))]);

    let target = Target::new(&event("dead").await, id("a"));
    let replayed = store.replay(&[target], None, at(30)).await.unwrap();
    let id_1 = DeliveryId::new(id("a"), "dead".parse().unwrap()).with_run(1);
    assert_eq!(replayed, [Replayed::Made(id_1)]);
    assert!(publish(store, "fresh", &["b"], at(30)).await.unwrap().duplicate, "ids are known");
    publish(store, "new", &["a"], at(31)).await.unwrap();
    let leases = claim(store, "a", at(40)).await;
    let mut claimed = names(&leases);
    claimed.sort();
    assert_eq!(claimed, ["dead", "fresh", "leased", "new", "retried"]);
    assert!(leases.iter().all(|lease| lease.fence.0 > 7), "fences go on rising");
    for lease in &leases {
        settle(store, lease, Decision::Delivered).await;
    }

    let outbox = SqliteOutbox::open(&path).await.unwrap();
    let pending = outbox.pending(10).await.unwrap();
    assert_eq!(pending.len(), 1, "what an application published is still to be moved");
}

/// The tables of a changed file are those of a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_has_the_tables_of_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let tables = async |path: &Path| {
        SqliteStore::open(path).await.unwrap().close().await.unwrap();
        let connection = Connection::open(path).unwrap();
        let mut statement = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
            .unwrap();
        let tables = statement.query_map([], |row| row.get(0)).unwrap();
        tables.collect::<Result<Vec<String>, _>>().unwrap()
    };
    let (old, new) = (folder.path().join("old.db"), folder.path().join("new.db"));
    write_version_1(&old);
    assert_eq!(tables(&old).await, tables(&new).await);
}
