package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"os"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
)

// body is a request body, and what upstream's decoder makes of it.
type body struct {
	Group   string          `json:"group"`
	Version string          `json:"version"`
	Kind    string          `json:"kind"`
	Body    string          `json:"body"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   string          `json:"error,omitempty"`
}

// more are kinds whose fields decode in ways of their own.
var more = []struct {
	gvk  schema.GroupVersionKind
	fill func(dice, object)
}{
	{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, func(d dice, o object) {
		o["data"] = object{"a": d.text("AAE=", "aGVsbG8=", "", "AA==", "A\nA\n==", "AB=="), "b": "AAAA"}
		d.put(o, "immutable", 0.5, func() any { return d.maybe(0.5) })
	}},
	{schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"}, func(d dice, o object) {
		o["spec"] = object{
			"renewTime":   d.text("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05.1+02:00", "2026-01-02T03:04:05Z"),
			"acquireTime": d.text("2026-01-02T03:04:05.678901Z", "2026-01-02 03:04:05Z", ""),
		}
	}},
	{schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}, func(d dice, o object) {
		target := object{"type": "Value", "value": d.text("1.5", "100m", "x", "1Ki")}
		metric := object{"type": "External", "external": object{"metric": object{"name": "m"}, "target": target}}
		o["spec"] = object{"maxReplicas": d.Intn(9), "metrics": []any{metric}}
	}},
	{schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ControllerRevision"}, func(d dice, o object) {
		o["revision"] = 1
		o["data"] = d.pick(object{"spec": object{"a": []any{1, nil, 1.5}}}, "text", 1)
	}},
}

// bodies writes spoilt request bodies, and then quantities.
func bodies(scheme *runtime.Scheme) {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	options := serializer.SerializerOptions{Strict: true}
	decoder := serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme, scheme, options)
	all := append(kinds, more...)
	for seed := range 20000 {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		kind := all[seed%len(all)]
		o := object{"apiVersion": kind.gvk.GroupVersion().String(), "kind": kind.gvk.Kind, "metadata": d.metadata()}
		kind.fill(d, o)
		var text strings.Builder
		d.spoil(&text, o, d.Float64()*0.04)
		b := body{Group: kind.gvk.Group, Version: kind.gvk.Version, Kind: kind.gvk.Kind, Body: text.String()}
		if d.maybe(0.1) {
			b.Body = d.tear(b.Body)
		}
		into, err := scheme.New(kind.gvk)
		if err != nil {
			log.Fatal(err)
		}
		gvk := kind.gvk
		decoded, _, err := decoder.Decode([]byte(b.Body), &gvk, into)
		if err != nil {
			b.Error = err.Error()
		} else {
			b.Result = mustJSON(decoded)
		}
		if err := encoder.Encode(b); err != nil {
			log.Fatal(err)
		}
	}
	for seed := range 20000 {
		d := dice{rand.New(rand.NewSource(int64(seed)))}
		text := d.quantity()
		b := body{Kind: "Quantity", Body: text}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			b.Error = err.Error()
		} else {
			b.Result = mustJSON([]any{q, q.Value(), q.MilliValue(), q.AsApproximateFloat64() < 9e15})
		}
		if err := encoder.Encode(b); err != nil {
			log.Fatal(err)
		}
	}
}

func (d dice) quantity() string {
	digits := func(limit int) string {
		text := ""
		for range d.Intn(limit) {
			text += d.text("0", "1", "2", "5", "0")
		}
		return text
	}
	text := d.text("", "", "", "-", "+") + digits(7)
	if d.maybe(0.4) {
		text += "." + digits(6)
	}
	if d.maybe(0.05) {
		text += d.text("x", " ", ".", "e", "-")
	}
	return text + d.text("", "", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "e3", "E2", "e-3", "ki", "e")
}

// spoil writes a value as JSON, with wrong values, unknown and duplicate fields now and then.
func (d dice) spoil(out *strings.Builder, value any, chance float64) {
	if d.maybe(chance / 2) {
		wrong := []string{`"text"`, `5`, `-7`, `1.5`, `1e3`, `true`, `null`, `[]`, `{}`, `99999999999`, `"5"`, `[1]`, `{"a":1}`, `""`, `[{}]`, `[null]`}
		out.WriteString(wrong[d.Intn(len(wrong))])
		return
	}
	switch value := value.(type) {
	case object:
		keys := make([]string, 0, len(value))
		for key := range value {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		out.WriteString("{")
		comma := ""
		entry := func(key string, value any) {
			fmt.Fprintf(out, "%s%q:", comma, key)
			comma = ","
			d.spoil(out, value, chance)
		}
		for _, key := range keys {
			entry(key, value[key])
			if _, scalar := value[key].(string); scalar && d.maybe(chance) {
				entry(key, value[key]) // upstream merges objects that come twice, which nobody should rely on
			}
			if d.maybe(chance) {
				entry(d.text("unknown", "Name", "x-y"), d.pick("text", object{"a": 1, "b": []any{object{}}}))
			}
		}
		out.WriteString("}")
	case []any:
		out.WriteString("[")
		for i, inner := range value {
			if i > 0 {
				out.WriteString(",")
			}
			d.spoil(out, inner, chance)
		}
		out.WriteString("]")
	default:
		out.Write(mustJSON(value))
	}
}

// tear makes a text that is no JSON, mostly.
func (d dice) tear(text string) string {
	at := d.Intn(len(text))
	switch d.Intn(3) {
	case 0:
		return text[:at]
	case 1:
		return text[:at] + text[at+1:]
	}
	return text[:at] + d.text("x", "}", "]", ",", ":", "\"", "1", "\\", "\x01") + text[at:]
}
