package kube

import (
	"encoding/json"
	"testing"
)

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		status string
		ok     bool
		why    string
	}{
		"ready":       {`{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}`, true, ""},
		"ended well":  {`{"phase":"Succeeded","conditions":[{"type":"Ready","status":"False"}]}`, true, ""},
		"no image":    {`{"phase":"Pending","containerStatuses":[{"name":"c","state":{"waiting":{"reason":"ErrImageNeverPull","message":"x"}}}]}`, false, "c: ErrImageNeverPull x"},
		"first step":  {`{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"reason":"Error","exitCode":2}}}],"containerStatuses":[{"name":"c","state":{"waiting":{"reason":"PodInitializing"}}}]}`, false, "i: Error, exit code 2"},
		"unscheduled": {`{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","message":"no nodes"}]}`, false, "no nodes"},
		"starting":    {`{"phase":"Pending"}`, false, "pending"},
	} {
		var s podStatus
		if err := json.Unmarshal([]byte(tc.status), &s); err != nil {
			t.Fatal(err)
		}
		if ok, why := s.judge(); ok != tc.ok || why != tc.why {
			t.Errorf("%s: %v %q, want %v %q", name, ok, why, tc.ok, tc.why)
		}
	}
}
