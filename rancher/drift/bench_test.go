package drift

import (
	"encoding/json"
	"fmt"
	"testing"
)

// policies is a release of n policies as Helm stores it, and the lists that hold them, as the
// API server answers: with defaults, and with managedFields.
func policies(b testing.TB, n int) (secret []byte, items [][]byte) {
	b.Helper()
	text := ""
	for i := range n {
		text += fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: policy-%d
  namespace: shop
  labels: {app: "%d"}
spec:
  podSelector: {matchLabels: {app: "%d"}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: edge}}
      podSelector: {matchLabels: {app: gateway}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: 8443}, {port: 9090, protocol: TCP}]
  egress:
  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
`, i, i, i)
		live := map[string]any{}
		if err := json.Unmarshal([]byte(fmt.Sprintf(`{"metadata":{"name":"policy-%d","namespace":"shop","uid":"2f7c3f0e-0000-4000-8000-%012d","resourceVersion":"%d","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"%d","app.kubernetes.io/managed-by":"Helm"},
"annotations":{"meta.helm.sh/release-name":"policies","meta.helm.sh/release-namespace":"np"},
"managedFields":[{"manager":"fleetagent","operation":"Update","apiVersion":"networking.k8s.io/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:annotations":{".":{},"f:meta.helm.sh/release-name":{},"f:meta.helm.sh/release-namespace":{}},"f:labels":{".":{},"f:app":{},"f:app.kubernetes.io/managed-by":{}}},"f:spec":{"f:egress":{},"f:ingress":{},"f:podSelector":{},"f:policyTypes":{}}}}]},
"spec":{"podSelector":{"matchLabels":{"app":"%d"}},"policyTypes":["Ingress","Egress"],
"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"edge"}},"podSelector":{"matchLabels":{"app":"gateway"}}},{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"protocol":"TCP","port":8443},{"protocol":"TCP","port":9090}]}],
"egress":[{"to":[{"namespaceSelector":{},"podSelector":{"matchLabels":{"k8s-app":"kube-dns"}}}],"ports":[{"protocol":"UDP","port":53},{"protocol":"TCP","port":53}]}]}}`, i, i, i, i, i)), &live); err != nil {
			b.Fatal(err)
		}
		data, err := json.Marshal(live)
		if err != nil {
			b.Fatal(err)
		}
		items = append(items, data)
	}
	secret = packed(b, map[string]any{
		"name": "policies", "namespace": "np", "version": 1, "manifest": text, "info": map[string]any{"status": "deployed"},
	})
	return secret, items
}

// BenchmarkCompare is one cluster with 200 policies, from the bytes of its API server to the verdict:
// with a manifest that was seen before, as on most clusters of an environment, and with one of its own.
func BenchmarkCompare(b *testing.B) {
	secret, items := policies(b, 200)
	np := Type{Networking, "NetworkPolicy"}
	prepare := func() *Wish {
		r, err := DecodeRelease(secret)
		if err != nil {
			b.Fatal(err)
		}
		objects, err := r.Objects()
		if err != nil {
			b.Fatal(err)
		}
		return NewWish(objects)
	}
	for name, every := range map[string]bool{"same": false, "own": true} {
		b.Run("manifest="+name, func(b *testing.B) {
			wish := prepare()
			for b.Loop() {
				if every {
					wish = prepare()
				} else if _, err := DecodeRelease(secret); err != nil {
					b.Fatal(err)
				}
				live := map[Type][]*Object{}
				for _, item := range items {
					o, err := Decode(item, np)
					if err != nil {
						b.Fatal(err)
					}
					live[np] = append(live[np], o)
				}
				if f, _ := Compare(Input{Releases: []Held{{Ref: ReleaseRef{"np", "policies", 1}, Wish: wish}}, Live: live}); len(f) > 0 {
					b.Fatal(f[0])
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "clusters/s")
		})
	}
}
