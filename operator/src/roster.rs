//! Pods as they were last seen, by the consumer that they work for: a pass reads its own few, however many there are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use millrace_api::QueueConsumer;

use crate::build::names::LABEL_INSTANCE;

type Consumer = ObjectRef<QueueConsumer>;

/// All pods that are watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster(Arc<RwLock<Index>>);

#[derive(Debug, Default)]
struct Index {
    /// By consumer, then by name.
    pods: HashMap<Consumer, BTreeMap<String, Arc<Pod>>>,
    /// A pod's consumer as it was last seen: a label may change.
    whose: HashMap<ObjectRef<Pod>, Consumer>,
}

impl Roster {
    /// A consumer's pods, by name.
    pub(crate) fn of(&self, consumer: &Consumer) -> Vec<Arc<Pod>> {
        self.index().pods.get(consumer).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The consumers that have pods on a node.
    pub(crate) fn consumers_on(&self, node: &Node) -> HashSet<Consumer> {
        let on_it = |pod: &Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name == node.metadata.name);
        let index = self.index();
        index.pods.iter().filter(|(_, pods)| pods.values().any(on_it)).map(|(consumer, _)| consumer.clone()).collect()
    }

    /// Something to call with each event of the watch. What is listed anew replaces what was known at the list's end.
    pub(crate) fn writer(&self) -> impl FnMut(&Event<Pod>) + Send + 'static {
        let pods = self.clone();
        let mut listed = Index::default();
        move |event| match event {
            Event::Init => listed = Index::default(),
            Event::InitApply(pod) => listed.apply(pod),
            Event::InitDone => *pods.index_mut() = std::mem::take(&mut listed),
            Event::Apply(pod) => pods.index_mut().apply(pod),
            Event::Delete(pod) => pods.index_mut().remove(&ObjectRef::from(pod)),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn apply(&mut self, pod: &Pod) {
        let key = ObjectRef::from(pod);
        let consumer = consumer_of(pod);
        if self.whose.get(&key) != consumer.as_ref() {
            self.remove(&key);
        }
        let Some(consumer) = consumer else { return };
        self.pods.entry(consumer.clone()).or_default().insert(key.name.clone(), Arc::new(pod.clone()));
        self.whose.insert(key, consumer);
    }

    fn remove(&mut self, key: &ObjectRef<Pod>) {
        let Some(consumer) = self.whose.remove(key) else { return };
        let Some(pods) = self.pods.get_mut(&consumer) else { return };
        pods.remove(&key.name);
        if pods.is_empty() {
            self.pods.remove(&consumer);
        }
    }
}

/// The consumer that a pod works for.
pub(crate) fn consumer_of(pod: &Pod) -> Option<Consumer> {
    let name = pod.labels().get(LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, consumer: &str, node: &str) -> Pod {
        let labels = if consumer.is_empty() { json!({}) } else { json!({ LABEL_INSTANCE: consumer }) };
        let metadata =
            json!({ "namespace": namespace, "name": name, "uid": format!("{name}-{node}"), "labels": labels });
        serde_json::from_value(json!({ "metadata": metadata, "spec": { "nodeName": node, "containers": [] } })).unwrap()
    }

    fn key(namespace: &str, name: &str) -> Consumer {
        ObjectRef::new(name).within(namespace)
    }

    fn names(pods: &Roster, consumer: &str) -> Vec<String> {
        pods.of(&key("demo", consumer)).iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn each_consumer_has_its_own_by_name() {
        let pods = Roster::default();
        let mut write = pods.writer();
        for (namespace, name, consumer) in
            [("demo", "b", "x"), ("demo", "a", "x"), ("demo", "c", "y"), ("other", "d", "x")]
        {
            write(&Event::Apply(pod(namespace, name, consumer, "n")));
        }
        assert_eq!((names(&pods, "x"), names(&pods, "y")), (vec!["a".into(), "b".into()], vec!["c".into()]));
        assert!(names(&pods, "z").is_empty());
    }

    #[test]
    fn a_pod_is_replaced_moved_and_gone_as_the_watch_tells() {
        let pods = Roster::default();
        let mut write = pods.writer();
        write(&Event::Apply(pod("demo", "a", "x", "old")));
        write(&Event::Apply(pod("demo", "a", "x", "new")));
        let [a] = &pods.of(&key("demo", "x"))[..] else { panic!("one pod") };
        assert_eq!(a.uid().as_deref(), Some("a-new"), "another one of that name");
        write(&Event::Apply(pod("demo", "a", "y", "new")));
        assert_eq!((names(&pods, "x"), names(&pods, "y")), (vec![], vec!["a".to_owned()]), "its label changed");
        write(&Event::Apply(pod("demo", "a", "", "new")));
        assert!(names(&pods, "y").is_empty(), "it has none");
        write(&Event::Apply(pod("demo", "a", "y", "new")));
        // The last state of an object may carry other labels than were seen.
        write(&Event::Delete(pod("demo", "a", "x", "new")));
        write(&Event::Delete(pod("demo", "never seen", "x", "new")));
        let index = pods.index();
        assert!(index.pods.is_empty() && index.whose.is_empty(), "{index:?}");
    }

    #[test]
    fn a_list_replaces_all_when_it_is_whole() {
        let pods = Roster::default();
        let mut write = pods.writer();
        write(&Event::Apply(pod("demo", "a", "x", "n")));
        write(&Event::Init);
        write(&Event::InitApply(pod("demo", "cut off", "x", "n")));
        write(&Event::Init);
        write(&Event::InitApply(pod("demo", "b", "x", "n")));
        assert_eq!(names(&pods, "x"), ["a"], "not before its end");
        write(&Event::InitDone);
        assert_eq!(names(&pods, "x"), ["b"]);
    }

    #[test]
    fn a_node_leads_to_the_consumers_on_it() {
        let pods = Roster::default();
        let mut write = pods.writer();
        for (name, consumer, node) in [("a", "x", "n1"), ("b", "x", "n2"), ("c", "y", "n2")] {
            write(&Event::Apply(pod("demo", name, consumer, node)));
        }
        let node = |name: &str| serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        assert_eq!(pods.consumers_on(&node("n1")), HashSet::from([key("demo", "x")]));
        assert_eq!(pods.consumers_on(&node("n2")), HashSet::from([key("demo", "x"), key("demo", "y")]));
        assert!(pods.consumers_on(&node("n3")).is_empty());
    }
}
