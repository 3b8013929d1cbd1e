package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"portcullis.dev/portcullis/rancher"
)

const (
	// callTimeout bounds one attempt of a request, its answer included.
	callTimeout = 20 * time.Second
	// attemptsMore is how often a request is made again that the server or the network refused.
	attemptsMore = 2
	// maxAnswer bounds an answer, and maxItems the objects in one: a cluster cannot fill the
	// daemon's memory.
	maxAnswer = 128 << 20
	maxItems  = 50_000
	// maxError bounds what is read of the body of an error.
	maxError = 4 << 10
)

// reader reads one cluster's API server, and counts what it asks.
type reader struct {
	host     string
	client   *retryablehttp.Client
	requests atomic.Int64
}

func newReader(config *rest.Config) (*reader, error) {
	plain, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	r := &reader{host: strings.TrimRight(config.Host, "/")}
	c := retryablehttp.NewClient()
	c.HTTPClient, c.Logger = plain, nil // the library's own log would print URLs
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = attemptsMore, 250*time.Millisecond, 2*time.Second
	c.ErrorHandler = retryablehttp.PassthroughErrorHandler
	c.RequestLogHook = func(retryablehttp.Logger, *http.Request, int) { r.requests.Add(1) }
	c.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if rancher.KindOf(err) != "" {
			return false, err // no token: trying again cannot help
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	r.client = c
	return r, nil
}

// get makes a request and hands its answer on. An answer that is no success is an
// error of the API server.
func (r *reader) get(ctx context.Context, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, (attemptsMore+1)*callTimeout)
	defer cancel()
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, r.host+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, path)
	}
	body := &io.LimitedReader{R: resp.Body, N: maxAnswer}
	err = read(body)
	if body.N <= 0 {
		return fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	return err
}

func refusal(resp *http.Response, path string) error {
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	var status struct {
		Message string `json:"message"`
	}
	message := http.StatusText(resp.StatusCode)
	if json.Unmarshal(said, &status) == nil && status.Message != "" {
		message = status.Message
	}
	what := path[strings.LastIndex(path, "/")+1:]
	return apierrors.NewGenericServerResponse(resp.StatusCode, "get", corev1.Resource(what), "", message, 0, true)
}

// list reads a list object by object, so that no more than one is held twice.
func (r *reader) list(ctx context.Context, path string, each func(item json.RawMessage) error) error {
	return r.get(ctx, path, func(body io.Reader) error { return readList(body, each) })
}

func readList(body io.Reader, each func(item json.RawMessage) error) error {
	d := json.NewDecoder(body)
	if err := opens(d, '{'); err != nil {
		return err
	}
	found := false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return broken(err)
		}
		if name != "items" {
			var passed json.RawMessage
			if err := d.Decode(&passed); err != nil {
				return broken(err)
			}
			continue
		}
		found = true
		if err := readItems(d, each); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return broken(err)
	}
	if !found {
		return errors.New("the answer is no list")
	}
	return nil
}

func readItems(d *json.Decoder, each func(item json.RawMessage) error) error {
	first, err := d.Token()
	if err != nil {
		return broken(err)
	}
	if first == nil {
		return nil // an empty list may be null
	}
	if first != json.Delim('[') {
		return errors.New("the answer is no list")
	}
	for n := 0; d.More(); n++ {
		if n == maxItems {
			return fmt.Errorf("there are more than %d of them", maxItems)
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return broken(err)
		}
		if err := each(item); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return broken(err)
}

func opens(d *json.Decoder, want json.Delim) error {
	switch t, err := d.Token(); {
	case err != nil:
		return broken(err)
	case t != want:
		return errors.New("the answer is no list")
	}
	return nil
}

func broken(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the answer cannot be read: %w", err)
}
