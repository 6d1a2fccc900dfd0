package find

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/httpclient"
)

// maxAnswer is the largest page that [Ask] reads, in bytes: [MaxLimit] entries of the largest size.
const maxAnswer = 64 << 20

// Ask sends a query to the page of a server. base is the URL of its REST listener.
func Ask(ctx context.Context, c *http.Client, base string, q Query) (*Answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(base, "/")+Path+"?"+q.Values().Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := c.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read below
	body, err := httpclient.ReadBody(response, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", base, err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s has no index; write find: {dir: index} into its configuration", base)
	default:
		var refused struct {
			Message string `json:"message"`
			Details []struct {
				Metadata map[string]string `json:"metadata"`
			} `json:"details"`
		}
		_ = json.Unmarshal(body, &refused) // the status says enough
		for _, d := range refused.Details {
			if cause := d.Metadata["cause"]; cause != "" {
				refused.Message += ": " + cause
			}
		}
		return nil, fmt.Errorf("%s answers with status %d %s", base, response.StatusCode, refused.Message)
	}
	out := &Answer{}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s: the answer is not JSON: %w", base, err)
	}
	return out, nil
}
