import { asFault } from '@signalbox/faults/fault';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { attribute, type Span, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkerOptions, WorkItem } from '@signalbox/work/worker';
import type { Handler, Values } from './handlers/handler.ts';
import type { Opened } from './opened-tasks.ts';
import { stepsOf, storable } from './steps.ts';
import { turnIds, turnMessage, updateMessage } from './task-messages.ts';
import type { TaskMetrics } from './task-metrics.ts';
import { deadlineOf, readPayload, type TaskPayload, targetName } from './task-payload.ts';
import { TaskRun } from './task-run.ts';
import { type EndedState, updateOf } from './task-state.ts';
import type { TaskStore } from './task-store.ts';

export interface RunTaskParts {
  readonly store: TaskStore;
  readonly handlers: ReadonlyMap<string, Handler>;
  readonly opened: Opened;
  /** Ends an item that cannot even be told of. */
  readonly fail: (item: WorkItem, lease: Lease, why: string) => Promise<unknown>;
  /** Webhooks may have been entered. */
  readonly onWebhooks: () => void;
  readonly maxDepth: number;
  /** Of a tenant. */
  readonly maxOpenChildren: number;
  readonly maxTaskMs: number;
  readonly log: Logger;
  readonly metrics: TaskMetrics;
}

/** What those who ask for the end of a task give its holder. */
export interface EndAsked {
  readonly why: 'cancelled' | 'expired';
  readonly reason?: string | undefined;
}

/** What the worker runs of a task, and what it does when its tries are spent or its end was asked for. */
export function taskWork(parts: RunTaskParts): Required<Pick<WorkerOptions, 'run' | 'giveUp' | 'cancelled'>> {
  const { store, log, metrics } = parts;

  /** In the trace and with the log fields of the task. One that cannot be read can be told of to nobody. */
  async function inTask(
    item: WorkItem,
    lease: Lease,
    name: string,
    act: (payload: TaskPayload, span: Span) => Promise<void>,
  ): Promise<void> {
    const payload = readPayload(item);
    if (payload === undefined) {
      log.error('task.not_read', { itemId: item.id, format: item.format });
      await parts.fail(item, lease, 'the payload is not one that this release reads');
      return;
    }
    const target = targetName(payload.task.target);
    const attributes = {
      'task.id': item.id,
      'task.target': target.name,
      'task.depth': payload.task.depth,
      [attribute.eventId]: payload.event_id,
      [attribute.tenantId]: item.tenant,
      [attribute.attempt]: item.attempt,
    };
    await runWithContext({ requestId: payload.request_id, tenantId: item.tenant }, () =>
      withSpan(`${name} ${target.name}`, { attributes, parent: item.traceparent }, (span) =>
        act(payload, span),
      ),
    );
  }

  async function end(run: TaskRun, state: EndedState): Promise<void> {
    await run.end(state);
    const { item, payload } = run;
    const { kind, name } = targetName(payload.task.target);
    const ms = Date.now() - Date.parse(payload.task.submitted_at);
    metrics.ended(kind, state.status, ms);
    const code = state.status === 'completed' ? {} : { errorCode: state.error.error_code };
    log.info('task.ended', {
      taskId: item.id,
      target: name,
      status: state.status,
      attempt: item.attempt,
      ms,
      ...code,
    });
    parts.onWebhooks();
  }

  async function runItem(item: WorkItem, lease: Lease, payload: TaskPayload, span: Span): Promise<void> {
    const run = new TaskRun(store, item, lease, payload, await opened(item, lease, payload));
    const { task } = payload;
    if (task.depth > parts.maxDepth) {
      await end(
        run,
        failed('DEPTH_LIMIT', `tasks may be delegated ${parts.maxDepth} deep, this one is ${task.depth}`),
      );
    } else if (deadlineOf(task, parts.maxTaskMs).getTime() <= Date.now()) {
      await end(run, expired());
    } else if (await isOneTooMany(run)) {
      await end(run, failed('TENANT_BUSY', 'as many delegated tasks of this tenant run as may'));
    } else {
      if (run.status !== 'running' || run.toldAttempt < item.attempt) await run.tell({ status: 'running' });
      if ('persona_id' in task.target) await runPersona(run, task.target.persona_id);
      else await runHandler(run, task.target.handler);
    }
    // Its webhook was entered when it was parked.
    if (run.status === 'input_required') parts.onWebhooks();
    span.setAttribute('task.status', run.status);
  }

  /**
   * Callers are bounded at the door; tasks that tasks delegate are bounded here, when they first run: 16 calls a turn, five
   * levels deep, are a million. This one is among those that are counted.
   */
  async function isOneTooMany({ item, payload, isFirst }: TaskRun): Promise<boolean> {
    if (payload.task.parent_task_id === undefined || !isFirst) return false;
    const { maxOpenChildren } = parts;
    return (await store.openChildren(item.tenant, maxOpenChildren + 1)) > maxOpenChildren;
  }

  /** What the intake that claimed the task knows of it, or what is stored. */
  async function opened(item: WorkItem, lease: Lease, payload: TaskPayload) {
    const fresh = parts.opened.take(item);
    if (fresh !== undefined) return fresh;
    const update = updateOf(payload, { status: 'running' }, { seq: 2, attempt: 1, now: new Date() });
    const message = updateMessage(item.tenant, payload, update);
    return await store.begin(item, lease, item.attempt === 1 ? { update, message } : undefined);
  }

  async function runPersona(run: TaskRun, personaId: string): Promise<void> {
    const { item, payload } = run;
    const step = run.step('turn');
    if (step?.outcome !== undefined) {
      await end(run, turnState(step.outcome));
      return;
    }
    const { message } = payload.task.input;
    if (typeof message !== 'string' || message === '') {
      await end(run, failed('VALIDATION_ERROR', 'the input of a persona is {message}'));
      return;
    }
    const { turnId } = turnIds(item.tenant, item.id);
    await run.park({ name: 'turn', kind: 'turn', ref: turnId }, [
      turnMessage(item.tenant, payload, personaId, message),
    ]);
    log.debug('task.waits_for_turn', { taskId: item.id, turnId });
  }

  async function runHandler(run: TaskRun, name: string): Promise<void> {
    const handler = parts.handlers.get(name);
    if (handler === undefined) {
      await end(run, failed('HANDLER_UNKNOWN', `no handler has the name ${name}`));
      return;
    }
    const result = await handled(run, handler);
    if (result !== undefined) await end(run, { status: 'completed', result: storable(result) });
  }

  return {
    run: (item, lease) => inTask(item, lease, 'task', (payload, span) => runItem(item, lease, payload, span)),
    giveUp: (item, lease, error) =>
      inTask(item, lease, 'give up task', async (payload) => {
        const run = new TaskRun(store, item, lease, payload, await store.begin(item, lease));
        const { code, message } = asFault(error);
        await end(run, failed(code, message));
      }),
    cancelled: (item, lease, cancel) =>
      inTask(item, lease, 'end task', async (payload) => {
        const run = new TaskRun(store, item, lease, payload, await store.begin(item, lease));
        await end(run, endAskedFor(cancel));
      }),
  };
}

/** The handler's result; undefined when it waits. Its end by a signal does not wait for code that ignores it. */
async function handled(run: TaskRun, handler: Handler): Promise<Values | undefined> {
  const parked = Promise.withResolvers<undefined>();
  const { signal } = run.lease;
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  aborted.promise.catch(() => undefined);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    const steps = stepsOf(run, { parked: () => parked.resolve(undefined), failed: aborted.reject });
    const running = handler.run(run.payload.task.input, steps);
    running.catch(() => undefined);
    return await Promise.race([parked.promise, aborted.promise, running]);
  } finally {
    run.close();
    signal.removeEventListener('abort', abort);
  }
}

/** What became of a task that was to be ended. */
export function endAskedFor(cancel: unknown): EndedState {
  const fields = new Map<string, unknown>(
    Object.entries(typeof cancel === 'object' && cancel !== null ? cancel : {}),
  );
  if (fields.get('why') === 'expired') return expired();
  const reason = fields.get('reason');
  return {
    status: 'cancelled',
    error: {
      error_code: 'CANCELLED',
      message: typeof reason === 'string' ? reason : 'its end was asked for',
    },
  };
}

function expired(): EndedState {
  return { status: 'expired', error: { error_code: 'TASK_EXPIRED', message: 'its deadline has passed' } };
}

function failed(errorCode: string, message: string): EndedState {
  return { status: 'failed', error: { error_code: errorCode, message } };
}

/** The end of a task by the end of the turn that carried it out. */
function turnState({ outcome, text, error_code, message, ...rest }: Values): EndedState {
  if (outcome === 'final') {
    try {
      return { status: 'completed', result: storable({ text, ...rest }) };
    } catch (error) {
      const { code, message: why } = asFault(error);
      return failed(code, why);
    }
  }
  if (outcome === 'cancelled') {
    return { status: 'cancelled', error: { error_code: 'CANCELLED', message: 'its turn was cancelled' } };
  }
  const code =
    typeof error_code === 'string' ? error_code : outcome === 'rejected' ? 'CONFLICT' : 'INTERNAL_ERROR';
  return failed(code, typeof message === 'string' ? message : `its turn ended with ${String(outcome)}`);
}
