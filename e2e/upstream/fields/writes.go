package main

import (
	"bufio"
	"encoding/json"
	"log"
	"math/rand"
	"os"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apijson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/applyconfigurations"
)

// scenario is the life of one object under upstream's field manager.
type scenario struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
	Steps   []step `json:"steps"`
}

// step is one write, and what came of it.
type step struct {
	Op      string          `json:"op"`
	Manager string          `json:"manager,omitempty"`
	Force   bool            `json:"force,omitempty"`
	Object  json.RawMessage `json:"object"`
	Patch   json.RawMessage `json:"patch,omitempty"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
}

type object = map[string]any

// dice makes random objects that share names often enough to meet.
type dice struct{ *rand.Rand }

func (d dice) maybe(chance float64) bool     { return d.Float64() < chance }
func (d dice) pick(choices ...any) any       { return choices[d.Intn(len(choices))] }
func (d dice) text(choices ...string) string { return choices[d.Intn(len(choices))] }

func (d dice) put(target object, name string, chance float64, value func() any) {
	if d.maybe(chance) {
		target[name] = value()
	}
}

// some makes a list of up to limit elements with distinct keys.
func (d dice) some(limit int, make func() (string, any)) any {
	list, seen := []any{}, map[string]bool{}
	for range 1 + d.Intn(limit) {
		if key, element := make(); !seen[key] {
			seen[key] = true
			list = append(list, element)
		}
	}
	return list
}

func (d dice) strings() any {
	result := object{}
	for range 1 + d.Intn(3) {
		result[d.text("x", "y", "z")] = d.text("1", "2")
	}
	return result
}

func (d dice) metadata() object {
	result := object{"name": "n", "namespace": "default"}
	d.put(result, "labels", 0.6, d.strings)
	d.put(result, "annotations", 0.4, d.strings)
	d.put(result, "finalizers", 0.3, func() any {
		return d.some(2, func() (string, any) { f := d.text("f/1", "f/2", "f/3"); return f, f })
	})
	d.put(result, "ownerReferences", 0.3, func() any {
		return d.some(2, func() (string, any) {
			uid := d.text("u1", "u2")
			return uid, object{"apiVersion": "v1", "kind": "Pod", "name": d.text("p", "q"), "uid": uid}
		})
	})
	return result
}

func (d dice) ports(key string) any {
	return d.some(3, func() (string, any) {
		number := 80 + d.Intn(2)
		port := object{key: number, "protocol": d.text("TCP", "UDP")}
		if d.maybe(0.3) && port["protocol"] == "TCP" {
			delete(port, "protocol")
			port["name"] = d.text("web", "www")
		}
		if key == "port" {
			d.put(port, "targetPort", 0.5, func() any { return d.pick(8080, "http") })
		}
		protocol, _ := port["protocol"].(string)
		if protocol == "" {
			protocol = "TCP"
		}
		return string(rune(number)) + protocol, port
	})
}

func (d dice) container() (string, any) {
	name := d.text("a", "b", "c")
	result := object{"name": name}
	d.put(result, "image", 0.8, func() any { return d.text("i:1", "i:2") })
	d.put(result, "ports", 0.5, func() any { return d.ports("containerPort") })
	d.put(result, "command", 0.3, func() any { return d.pick([]any{"sh"}, []any{"sh", "-c"}) })
	d.put(result, "env", 0.5, func() any {
		return d.some(3, func() (string, any) {
			variable := d.text("A", "B", "C")
			if d.maybe(0.2) {
				source := object{"fieldRef": object{"fieldPath": "metadata.name"}}
				return variable, object{"name": variable, "valueFrom": source}
			}
			return variable, object{"name": variable, "value": d.text("1", "2")}
		})
	})
	d.put(result, "resources", 0.5, func() any {
		return object{"limits": object{d.text("cpu", "memory"): d.text("500m", "1Gi", "2")}}
	})
	d.put(result, "volumeMounts", 0.3, func() any {
		return d.some(2, func() (string, any) {
			path := d.text("/m", "/n")
			return path, object{"mountPath": path, "name": d.text("v", "w")}
		})
	})
	d.put(result, "securityContext", 0.3, func() any {
		return d.pick(object{}, object{"privileged": d.maybe(0.5)}, object{"capabilities": object{"add": []any{"A"}}})
	})
	d.put(result, "livenessProbe", 0.3, func() any {
		return object{"httpGet": object{"port": d.pick(80, "http")}, "periodSeconds": 5 + d.Intn(2)}
	})
	return name, result
}

func (d dice) podSpec() any {
	result := object{"containers": d.some(3, d.container)}
	d.put(result, "nodeSelector", 0.3, d.strings)
	d.put(result, "terminationGracePeriodSeconds", 0.3, func() any { return d.Intn(2) * 30 })
	d.put(result, "hostNetwork", 0.2, func() any { return d.maybe(0.5) })
	d.put(result, "tolerations", 0.3, func() any {
		return d.some(2, func() (string, any) { k := d.text("k", "l"); return k, object{"key": k, "operator": "Exists"} })
	})
	d.put(result, "volumes", 0.4, func() any {
		return d.some(2, func() (string, any) {
			name := d.text("v", "w")
			source := d.pick(
				object{"name": name, "emptyDir": object{}},
				object{"name": name, "configMap": object{"name": d.text("c", "d"), "defaultMode": 420}})
			return name, source
		})
	})
	d.put(result, "topologySpreadConstraints", 0.2, func() any {
		return d.some(2, func() (string, any) {
			key, when := d.text("zone", "host"), d.text("DoNotSchedule", "ScheduleAnyway")
			return key + when, object{"topologyKey": key, "whenUnsatisfiable": when, "maxSkew": 1 + d.Intn(2)}
		})
	})
	d.put(result, "imagePullSecrets", 0.2, func() any {
		return d.some(2, func() (string, any) { n := d.text("s", "t"); return n, object{"name": n} })
	})
	d.put(result, "hostAliases", 0.2, func() any {
		return d.some(2, func() (string, any) {
			ip := d.text("1.1.1.1", "2.2.2.2")
			return ip, object{"ip": ip, "hostnames": []any{d.text("h", "i")}}
		})
	})
	return result
}

// kinds are what scenarios are about.
var kinds = []struct {
	gvk  schema.GroupVersionKind
	fill func(dice, object)
}{
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, func(d dice, o object) {
		template := object{"metadata": object{"labels": d.strings()}, "spec": d.podSpec()}
		spec := object{"selector": object{"matchLabels": d.strings()}, "template": template}
		d.put(spec, "replicas", 0.7, func() any { return d.Intn(4) })
		d.put(spec, "strategy", 0.5, func() any {
			return d.pick(object{"type": "Recreate"}, object{"type": "RollingUpdate", "rollingUpdate": object{"maxSurge": d.pick(1, "25%")}})
		})
		o["spec"] = spec
	}},
	{schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, func(d dice, o object) { o["spec"] = d.podSpec() }},
	{schema.GroupVersionKind{Version: "v1", Kind: "Service"}, func(d dice, o object) {
		spec := object{}
		d.put(spec, "ports", 0.9, func() any { return d.ports("port") })
		d.put(spec, "selector", 0.6, d.strings)
		d.put(spec, "type", 0.5, func() any { return d.text("ClusterIP", "NodePort") })
		d.put(spec, "externalIPs", 0.3, func() any { return d.pick([]any{"1.1.1.1"}, []any{"1.1.1.1", "2.2.2.2"}) })
		o["spec"] = spec
	}},
	{schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, func(d dice, o object) {
		d.put(o, "data", 0.9, d.strings)
		d.put(o, "binaryData", 0.2, func() any { return object{d.text("p", "q"): "AAE="} })
		d.put(o, "immutable", 0.2, func() any { return d.maybe(0.5) })
	}},
	{schema.GroupVersionKind{Version: "v1", Kind: "Node"}, func(d dice, o object) {
		spec := object{}
		d.put(spec, "taints", 0.5, func() any {
			return d.some(2, func() (string, any) { k := d.text("k", "l"); return k, object{"key": k, "effect": "NoSchedule"} })
		})
		d.put(spec, "podCIDRs", 0.3, func() any { return d.pick([]any{"10.0.0.0/24"}, []any{"10.0.1.0/24", "fd::/64"}) })
		o["spec"] = spec
		conditions := d.some(3, func() (string, any) {
			t := d.text("Ready", "DiskPressure", "PIDPressure")
			return t, object{"type": t, "status": d.text("True", "False")}
		})
		o["status"] = object{"conditions": conditions, "capacity": object{"cpu": d.text("1", "1500m")}}
	}},
	{schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "Role"}, func(d dice, o object) {
		o["rules"] = d.some(2, func() (string, any) {
			verb := d.text("get", "list")
			return verb, object{"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{verb}}
		})
	}},
}

func (d dice) make(at int) object {
	o := object{"apiVersion": kinds[at].gvk.GroupVersion().String(), "kind": kinds[at].gvk.Kind, "metadata": d.metadata()}
	kinds[at].fill(d, o)
	return o
}

func mustJSON(value any) json.RawMessage {
	text, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	return text
}

// writes plays random lives of objects through upstream's field manager and strategic merge.
func writes(scheme *runtime.Scheme) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	converter := applyconfigurations.NewTypeConverter(scheme)
	for seed := range 3000 {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		at := seed % len(kinds)
		gvk := kinds[at].gvk
		s := scenario{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
		if seed%3 == 2 {
			s.Steps = d.merges(scheme, at)
		} else {
			s.Steps = d.life(scheme, converter, at)
		}
		if err := encoder.Encode(s); err != nil {
			log.Fatal(err)
		}
	}
}

func (d dice) life(scheme *runtime.Scheme, converter managedfields.TypeConverter, at int) []step {
	gvk := kinds[at].gvk
	manager, err := managedfields.NewDefaultFieldManager(converter, scheme, scheme, scheme, gvk, gvk.GroupVersion(), "", nil)
	if err != nil {
		log.Fatal(err)
	}
	empty := func() runtime.Object {
		made, err := scheme.New(gvk)
		if err != nil {
			log.Fatal(err)
		}
		made.GetObjectKind().SetGroupVersionKind(gvk)
		return made
	}
	var live runtime.Object
	var steps []step
	for range 2 + d.Intn(5) {
		before := live
		if before == nil {
			before = empty()
		}
		body := d.make(at)
		if d.maybe(0.1) {
			delete(body, d.text("spec", "data", "rules"))
		}
		this := step{Manager: d.text("a", "b", "kubectl"), Object: mustJSON(body)}
		var after runtime.Object
		var err error
		if d.maybe(0.6) {
			this.Op, this.Force = "apply", d.maybe(0.5)
			after, err = manager.Apply(before.DeepCopyObject(), &unstructured.Unstructured{Object: decoded(body)}, this.Manager, this.Force)
		} else {
			this.Op = "update"
			sent := empty()
			if err := json.Unmarshal(this.Object, sent); err != nil {
				log.Fatal(err)
			}
			if live != nil {
				setUID(sent)
			}
			after, err = manager.Update(before.DeepCopyObject(), sent, this.Manager)
		}
		if err != nil {
			this.Error = err.Error()
		} else {
			after.GetObjectKind().SetGroupVersionKind(gvk)
			setUID(after)
			// what is stored is read again before the next write
			stored := empty()
			if err := json.Unmarshal(mustJSON(after), stored); err != nil {
				log.Fatal(err)
			}
			live, this.Result = stored, mustJSON(stored)
		}
		steps = append(steps, this)
	}
	return steps
}

func setUID(o runtime.Object) {
	accessor, err := meta.Accessor(o)
	if err != nil {
		log.Fatal(err)
	}
	accessor.SetUID("u")
	accessor.SetCreationTimestamp(metav1.Time{})
}

// decoded gives numbers the types that unstructured objects have.
func decoded(value object) object {
	var result object
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(mustJSON(value)); err != nil {
		log.Fatal(err)
	}
	result = u.Object
	return result
}

func (d dice) merges(scheme *runtime.Scheme, at int) []step {
	var steps []step
	for range 4 {
		typed, err := scheme.New(kinds[at].gvk)
		if err != nil {
			log.Fatal(err)
		}
		original, other := decoded(d.make(at)), decoded(d.make(at))
		this := step{Op: "strategic", Object: mustJSON(original)}
		patch := other
		if d.maybe(0.6) {
			made, err := strategicpatch.CreateTwoWayMergePatch(mustJSON(original), mustJSON(other), typed)
			if err != nil {
				log.Fatal(err)
			}
			patch = object{}
			if err := apijson.Unmarshal(made, &patch); err != nil {
				log.Fatal(err)
			}
			if d.maybe(0.3) { // meets another object than it was made for
				original = decoded(d.make(at))
				this.Object = mustJSON(original)
			}
		} else {
			d.directives(patch, 0)
		}
		this.Patch = mustJSON(patch)
		result, err := strategicpatch.StrategicMergeMapPatch(original, patch, typed)
		if err != nil {
			this.Error = err.Error()
		} else {
			this.Result = mustJSON(result)
		}
		steps = append(steps, this)
	}
	return steps
}

// directives strews $patch and nulls over a patch.
func (d dice) directives(value any, depth int) {
	switch value := value.(type) {
	case object:
		for key, inner := range value {
			if depth > 0 && d.maybe(0.05) {
				value[key] = nil
			} else {
				d.directives(inner, depth+1)
			}
		}
		if depth > 1 && d.maybe(0.06) {
			value["$patch"] = d.text("replace", "delete")
		}
	case []any:
		for _, inner := range value {
			d.directives(inner, depth+1)
		}
	}
}
