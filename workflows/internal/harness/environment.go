package harness

import (
	"time"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
)

// Environment is the SDK's, silent, and patient with a machine that is busy with other
// tests: what takes long there is neither stuck nor deadlocked.
func Environment() *testsuite.TestWorkflowEnvironment { return EnvironmentWith(Quiet{}) }

// EnvironmentWith is Environment with a logger.
func EnvironmentWith(logger log.Logger) *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(logger)
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(2 * time.Minute)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: time.Minute})
	return env
}
