package drive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Run is one run of a workflow, as Temporal's HTTP API lists it.
type Run struct {
	Execution struct {
		WorkflowID string `json:"workflowId"`
		RunID      string `json:"runId"`
	} `json:"execution"`
	Type struct {
		Name string `json:"name"`
	} `json:"type"`
	StartTime time.Time `json:"startTime"`
	// CloseTime is zero while it runs.
	CloseTime time.Time `json:"closeTime"`
	// Events is the length of its history, Bytes its size.
	Events int `json:"historyLength,string"`
	Bytes  int `json:"historySizeBytes,string"`
}

// Runs lists every run that a visibility query selects, through the UI's port.
func (p *Portcullis) Runs(ctx context.Context, query string) ([]Run, error) {
	var all []Run
	for next := ""; ; {
		var page struct {
			Executions    []Run  `json:"executions"`
			NextPageToken string `json:"nextPageToken"`
		}
		values := url.Values{"query": {query}, "pageSize": {"200"}, "nextPageToken": {next}}
		if err := p.temporalAPI(ctx, "workflows", values, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Executions...)
		if next = page.NextPageToken; next == "" {
			return all, nil
		}
	}
}

// Input decodes the first argument that a run was started with.
func (p *Portcullis) Input(ctx context.Context, r Run, into any) error {
	var answer struct {
		History struct {
			Events []struct {
				Started struct {
					Input struct {
						Payloads []struct {
							Data []byte `json:"data"`
						} `json:"payloads"`
					} `json:"input"`
				} `json:"workflowExecutionStartedEventAttributes"`
			} `json:"events"`
		} `json:"history"`
	}
	path := "workflows/" + url.PathEscape(r.Execution.WorkflowID) + "/history"
	err := p.temporalAPI(ctx, path, url.Values{"execution.runId": {r.Execution.RunID}, "maximumPageSize": {"1"}}, &answer)
	if err != nil {
		return err
	}
	if events := answer.History.Events; len(events) > 0 && len(events[0].Started.Input.Payloads) > 0 {
		return json.Unmarshal(events[0].Started.Input.Payloads[0].Data, into)
	}
	return fmt.Errorf("the history of %s does not begin with its input", r.Execution.WorkflowID)
}

func (p *Portcullis) temporalAPI(ctx context.Context, path string, values url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.UI()+"/api/v1/namespaces/default/"+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("Temporal answers %s to %s", res.Status, path)
	}
	return json.NewDecoder(res.Body).Decode(into)
}
