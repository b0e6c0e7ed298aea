import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { asFault, isFault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { attribute, type Span, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { outcomeMessage, outcomeValue, startedMessage } from './answers.ts';
import { type CallPayload, readPayload } from './call-payload.ts';
import type { CallStore } from './call-store.ts';
import { type RunCallParts, runCall } from './run-call.ts';

export interface WorkCallsParts extends RunCallParts {
  readonly store: CallStore;
  /** Ends an item that cannot even be answered. */
  readonly fail: (item: WorkItem, lease: Lease, why: string) => Promise<unknown>;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** A call that runs longer than this tells that it has started; shorter ones are over before anybody has read it. */
const tellStartedAfterMs = 250;
const storeAgainMs = 250;

/** What the worker runs of an item, and what it does when its tries are spent. */
export interface CallWork {
  run(item: WorkItem, lease: Lease): Promise<void>;
  giveUp(item: WorkItem, lease: Lease, error: unknown): Promise<void>;
}

export function workCalls(parts: WorkCallsParts): CallWork {
  const { store, log, metrics, implemented } = parts;
  const requests = metrics.counter('tool_executor_requests_total', {
    help: 'Tool calls that ended, by tool and outcome.',
    labels: ['tool', 'outcome'],
  });
  const seconds = metrics.histogram('tool_executor_execution_seconds', {
    help: 'Time from the start of a tool call to its outcome.',
    labels: ['tool'],
  });

  async function finish(item: WorkItem, lease: Lease, payload: CallPayload, outcome: ToolOutcomeReported) {
    await persistently(lease, () =>
      store.finish(item, lease, outcome, outcomeMessage(item.tenant, payload, outcome)),
    );
    const tool = implemented.has(outcome.tool) ? outcome.tool : 'unknown'; // labels are bounded
    requests.add(1, { tool, outcome: outcome.outcome });
    seconds.record(outcome.duration_ms / 1_000, { tool });
    log.info('tool.finished', {
      tool: outcome.tool,
      callId: outcome.call_id,
      outcome: outcome.outcome,
      ms: outcome.duration_ms,
      attempt: item.attempt,
    });
  }

  async function runItem(item: WorkItem, lease: Lease, payload: CallPayload, span: Span): Promise<void> {
    const startedAt = new Date();
    const slow = setTimeout(() => {
      store.tell(item, lease, startedMessage(item.tenant, payload, startedAt)).catch((error: unknown) => {
        log.debug('tool.started_not_told', { error }); // the outcome is what counts
      });
    }, tellStartedAfterMs);
    let outcome: ToolOutcomeReported;
    try {
      const { tenant, attempt } = item;
      outcome = await runCall(parts, { tenant, request: payload.request, attempt, signal: lease.signal });
    } finally {
      clearTimeout(slow);
    }
    failPoint('call.done');
    span.setAttribute('signalbox.outcome', outcome.outcome);
    await finish(item, lease, payload, outcome);
  }

  /** Nobody can be answered: who asked is not known. It is seen in the log and on its row. */
  async function failUnread(item: WorkItem, lease: Lease): Promise<void> {
    log.error('tool.call_not_read', { itemId: item.id, format: item.format });
    await parts.fail(item, lease, 'the payload is not one that this release reads');
  }

  return {
    async run(item, lease) {
      const payload = readPayload(item);
      if (payload === undefined) {
        await failUnread(item, lease);
        return;
      }
      const { request } = payload;
      const context = { requestId: payload.request_id, tenantId: item.tenant, sessionId: request.session_id };
      const attributes = {
        'tool.name': request.tool,
        [attribute.eventId]: payload.event_id,
        [attribute.turnId]: request.turn_id,
        [attribute.sessionId]: request.session_id,
        [attribute.tenantId]: item.tenant,
        [attribute.callId]: request.call_id,
        [attribute.attempt]: item.attempt,
      };
      await runWithContext(context, () =>
        withSpan(`tool ${request.tool}`, { attributes, parent: item.traceparent }, (span) =>
          runItem(item, lease, payload, span),
        ),
      );
    },
    async giveUp(item, lease, error) {
      const payload = readPayload(item);
      if (payload === undefined) {
        await failUnread(item, lease);
        return;
      }
      const { code, message } = asFault(error);
      const outcome = outcomeValue(payload.request, {
        outcome: 'error',
        output: '',
        truncated: false,
        duration_ms: 0,
        error_code: code,
        message,
      });
      await finish(item, lease, payload, outcome);
    },
  };
}

/**
 * Stores an outcome while the lease lasts. A call has had its effect by then: given up now, it would be run again, or be
 * told as unknown, although its outcome is known.
 */
async function persistently(lease: Lease, store: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      return await store();
    } catch (error) {
      if (!isFault(error, 'DATABASE_UNAVAILABLE') || lease.signal.aborted) {
        throw error;
      }
      await pause(storeAgainMs, lease.signal);
    }
  }
}
