import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { asFault, isFault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { attribute, type Span, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkerOptions, WorkItem } from '@signalbox/work/worker';
import { cancelledOutcome, outcomeMessage, outcomeValue, startedMessage } from './answers.ts';
import { type CallPayload, readPayload } from './call-payload.ts';
import type { CallStore } from './call-store.ts';
import type { CountCall } from './count-calls.ts';
import { type RunCallParts, runCall } from './run-call.ts';

export interface WorkCallsParts extends RunCallParts {
  readonly store: CallStore;
  /** Ends an item that cannot even be answered. */
  readonly fail: (item: WorkItem, lease: Lease, why: string) => Promise<unknown>;
  readonly log: Logger;
  readonly countCall: CountCall;
}

/** A call that runs longer than this tells that it has started; shorter ones are over before anybody has read it. */
const tellStartedAfterMs = 250;
const storeAgainMs = 250;

/** What the worker runs of an item, and what it does when its tries are spent or nobody waits for it. */
export type CallWork = Required<Pick<WorkerOptions, 'run' | 'giveUp' | 'cancelled'>>;

export function workCalls(parts: WorkCallsParts): CallWork {
  const { store, log, countCall } = parts;
  /** Monotonic times at which runs began here. */
  const beganAt = new WeakMap<WorkItem, number>();

  async function finish(item: WorkItem, lease: Lease, payload: CallPayload, outcome: ToolOutcomeReported) {
    await persistently(lease, () =>
      store.finish(item, lease, outcome, outcomeMessage(item.tenant, payload, outcome)),
    );
    countCall(outcome, item.attempt);
  }

  async function runItem(item: WorkItem, lease: Lease, payload: CallPayload, span: Span): Promise<void> {
    const startedAt = new Date();
    beganAt.set(item, performance.now());
    const slow = setTimeout(() => {
      store.tell(item, lease, startedMessage(item.tenant, payload, startedAt)).catch((error: unknown) => {
        log.debug('tool.started_not_told', { error }); // the outcome is what counts
      });
    }, tellStartedAfterMs);
    let outcome: ToolOutcomeReported;
    try {
      const { tenant, attempt } = item;
      outcome = await runCall(
        // A failure here would be a further attempt, which a call that may run once does not have.
        { ...parts, findTool: (of, name) => persistently(lease, () => parts.findTool(of, name)) },
        { tenant, request: payload.request, attempt, signal: lease.signal },
      );
    } finally {
      clearTimeout(slow);
    }
    failPoint('call.done');
    span.setAttribute('signalbox.outcome', outcome.outcome);
    await finish(item, lease, payload, outcome);
  }

  /** In the trace and with the log fields of the call. One that cannot be read can be answered to nobody. */
  async function inCall(
    item: WorkItem,
    lease: Lease,
    name: string,
    act: (payload: CallPayload, span: Span) => Promise<void>,
  ): Promise<void> {
    const payload = readPayload(item);
    if (payload === undefined) {
      log.error('tool.call_not_read', { itemId: item.id, format: item.format });
      await parts.fail(item, lease, 'the payload is not one that this release reads');
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
      withSpan(`${name} ${request.tool}`, { attributes, parent: item.traceparent }, (span) =>
        act(payload, span),
      ),
    );
  }

  return {
    run: (item, lease) => inCall(item, lease, 'tool', (payload, span) => runItem(item, lease, payload, span)),
    giveUp: (item, lease, error) =>
      inCall(item, lease, 'give up tool', async (payload) => {
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
      }),
    /** The child is gone by now: the run that it belonged to waited for its end. */
    cancelled: (item, lease) =>
      inCall(item, lease, 'cancel tool', async (payload) => {
        const began = beganAt.get(item);
        const ranMs = began === undefined ? undefined : performance.now() - began;
        // Claimed as cancelled, by a process that did not run it: the one before may have.
        await finish(item, lease, payload, cancelledOutcome(payload.request, ranMs ?? 0));
      }),
  };
}

/**
 * Repeats while the lease lasts and the database is away. For an outcome: its call has had its effect, and would be run
 * again, or told as unknown, although its outcome is known.
 */
async function persistently<T>(lease: Lease, ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!isFault(error, 'DATABASE_UNAVAILABLE') || lease.signal.aborted) {
        throw error;
      }
      await pause(storeAgainMs, lease.signal);
    }
  }
}
