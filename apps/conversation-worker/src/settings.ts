import { databaseSettings } from '@signalbox/config/database-settings';
import { httpSettings } from '@signalbox/config/http-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type loadSettings } from '@signalbox/config/settings';
import { modelSettings } from '@signalbox/model/model-settings';

/** How turns are run: how many at once, how long they are leased, and the limits that a persona does not set itself. */
export const turnSettings = {
  turnsMaxActive: integer({
    env: 'TURNS_MAX_ACTIVE',
    doc: 'Turns that one process runs at once; parked ones do not count.',
    default: 128,
    min: 1,
    max: 10_000,
  }),
  turnLeaseMs: integer({
    env: 'TURN_LEASE_MS',
    doc: 'A turn whose holder was silent for so long is taken over.',
    default: 5_000,
    min: 1_000,
    max: 600_000,
  }),
  turnMaxAttempts: integer({
    env: 'TURN_MAX_ATTEMPTS',
    doc: 'Tries of a turn (retries and takeovers) before it ends with assistant.error.',
    default: 4,
    min: 1,
    max: 100,
  }),
  turnRetryDelayMs: integer({
    env: 'TURN_RETRY_DELAY_MS',
    doc: 'Longest pause before the second try of a failed turn; doubles with each try, with full jitter.',
    default: 1_000,
    max: 60_000,
  }),
  turnStopMs: integer({
    env: 'TURN_STOP_MS',
    doc: 'How long a stopping process lets its turns end before it hands them over; inside SHUTDOWN_TIMEOUT_MS.',
    default: 20_000,
    max: 600_000,
  }),
  turnMaxRounds: integer({
    env: 'TURN_MAX_ROUNDS',
    doc: 'Model calls in one turn.',
    default: 8,
    min: 1,
    max: 1_000,
  }),
  turnMaxToolCalls: integer({
    env: 'TURN_MAX_TOOL_CALLS',
    doc: 'Tool calls in one turn.',
    default: 16,
    min: 1,
    max: 1_000,
  }),
  turnMaxOutputTokens: integer({
    env: 'TURN_MAX_OUTPUT_TOKENS',
    doc: 'Output tokens of all model calls of a turn.',
    default: 16_384,
    min: 1,
  }),
  turnMaxMs: integer({
    env: 'TURN_MAX_MS',
    doc: 'Time of a turn from its first claim on, waiting for tools included.',
    default: 300_000,
    min: 100,
    max: 86_400_000,
  }),
  turnHistoryTokens: integer({
    env: 'TURN_HISTORY_TOKENS',
    doc: 'Estimated tokens of earlier turns that the model is shown; whole turns only.',
    default: 8_000,
    max: 10_000_000,
  }),
  toolWaitMs: integer({
    env: 'TOOL_WAIT_MS',
    doc: "How long a turn waits for a tool beyond the tool's own time limit, which covers the way there and back and the queue.",
    default: 30_000,
    min: 10,
    max: 3_600_000,
  }),
  recallDeadlineMs: integer({
    env: 'RECALL_DEADLINE_MS',
    doc: 'How long a turn waits for its memories before it goes on without them.',
    default: 250,
    min: 10,
    max: 10_000,
  }),
  recallMaxTokens: integer({
    env: 'RECALL_MAX_TOKENS',
    doc: 'Estimated tokens of the memories that a model is given.',
    default: 1_000,
    max: 100_000,
  }),
  delegationWaitMs: integer({
    env: 'DELEGATION_WAIT_MS',
    doc: 'How long a task that a turn has delegated may take; then it expires, and the turn goes on without its result.',
    default: 120_000,
    min: 100,
    max: 86_400_000,
  }),
  delegationMaxDepth: integer({
    env: 'DELEGATION_MAX_DEPTH',
    doc: "How deep tasks may be delegated; a caller's own task has depth 0. One deeper fails.",
    default: 4,
    max: 32,
  }),
  sessionExpireDays: integer({
    env: 'SESSION_EXPIRE_DAYS',
    doc: 'Sessions that nobody has used for so many days are deleted, and older turns leave the history that models are shown; 0: never.',
    default: 0,
    max: 36_500,
  }),
  deltaCoalesceMs: integer({
    env: 'DELTA_COALESCE_MS',
    doc: 'Least time between two delta records of a turn; the first goes out at once.',
    default: 12,
    max: 1_000,
  }),
};

export const workerSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  httpClientMaxConnections: httpSettings.httpClientMaxConnections,
  ...modelSettings,
  ...turnSettings,
};

export type WorkerSettings = ReturnType<typeof loadSettings<typeof workerSettings>>;
