import type { TaskStatus, TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { fault, isFault } from '@signalbox/faults/fault';
import { pause } from '@signalbox/lifecycle/pause';
import type { OutgoingMessage } from '@signalbox/messaging/messaging';
import { currentTraceparent } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { cancelChildMessage, cancelTurnMessage, updateMessage, webhooksOf } from './task-messages.ts';
import type { TaskPayload } from './task-payload.ts';
import { type EndedState, mayFollow, type TaskState, updateOf } from './task-state.ts';
import type { OpenedTask, StoredStep, TaskStore, TaskWrite } from './task-store.ts';

const writeAgainMs = 250;

/**
 * A task while this process holds it. Nobody else changes it meanwhile, so what was read at the begin and written since
 * is how it stands.
 */
export class TaskRun {
  readonly payload: TaskPayload;
  readonly item: WorkItem;
  readonly lease: Lease;
  readonly #store: TaskStore;
  readonly #steps: Map<string, StoredStep>;
  readonly #children: readonly string[];
  /** The attempt that was told last, when it began. */
  readonly toldAttempt: number;
  /** Nothing of it has run before. */
  readonly isFirst: boolean;
  /** Steps that had an outcome then. */
  readonly knownOutcomes: number;
  #seq: number;
  #status: TaskStatus;
  /** The run is over here: parked or ended. */
  #over = false;

  constructor(store: TaskStore, item: WorkItem, lease: Lease, payload: TaskPayload, opened: OpenedTask) {
    this.#store = store;
    this.item = item;
    this.lease = lease;
    this.payload = payload;
    this.#steps = new Map(opened.steps.map((step) => [step.name, step]));
    this.#children = opened.children;
    this.toldAttempt = opened.toldAttempt;
    this.isFirst = item.attempt === 1 && opened.steps.length === 0;
    this.knownOutcomes = opened.steps.filter(({ outcome }) => outcome !== undefined).length;
    this.#seq = opened.seq;
    this.#status = opened.status;
  }

  get status(): TaskStatus {
    return this.#status;
  }

  get over(): boolean {
    return this.#over;
  }

  /** The handler is done with: what still runs of it stores nothing more. */
  close(): void {
    this.#over = true;
  }

  step(name: string): StoredStep | undefined {
    return this.#steps.get(name);
  }

  /** Tells where the task stands now. */
  async tell(state: TaskState): Promise<void> {
    await this.#write({ state });
  }

  /** Stores the outcome of a step that has run. */
  async finishStep(step: StoredStep): Promise<void> {
    await this.#write({ step });
    this.#steps.set(step.name, step);
  }

  /** Waits for one result: of `step.ref`, or input. Messages that bring it about go out with this, so none comes before it. */
  async park(step: StoredStep, messages: readonly OutgoingMessage[], state?: TaskState): Promise<void> {
    this.#over = true;
    await this.#write({ step, state, end: 'park', messages });
  }

  /** Ends the task; unless it completed, also what it still waits for. */
  async end(state: EndedState): Promise<void> {
    this.#over = true;
    const completed = state.status === 'completed';
    await this.#write({
      state,
      end: completed ? 'done' : state.status === 'failed' ? 'failed' : 'cancelled',
      messages: completed ? [] : this.#cancels(state.status),
    });
  }

  /** By its steps, and by the tasks that name it as their parent: one whose submission is still on its way has no row yet. */
  #cancels(why: 'failed' | 'cancelled' | 'expired'): OutgoingMessage[] {
    const { tenant } = this.item;
    const open = [...this.#steps.values()].filter(({ outcome }) => outcome === undefined);
    const children = new Set([
      ...this.#children,
      ...open.flatMap(({ kind, ref }) => (kind === 'task' ? (ref ?? []) : [])),
    ]);
    const reason = `its task ${why === 'cancelled' ? 'was cancelled' : why}`;
    return [
      ...(open.some(({ kind }) => kind === 'turn') ? [cancelTurnMessage(tenant, this.payload, reason)] : []),
      ...[...children].map((id) => cancelChildMessage(tenant, this.payload, id, reason)),
    ];
  }

  async #write(given: {
    readonly step?: StoredStep | undefined;
    readonly state?: TaskState | undefined;
    readonly end?: TaskWrite['end'];
    readonly messages?: readonly OutgoingMessage[];
  }): Promise<void> {
    const { item, lease, payload } = this;
    const { step, state, end, messages = [] } = given;
    const update = state === undefined ? undefined : this.#next(state);
    const write: TaskWrite = {
      step,
      update,
      end,
      error: end === undefined || update?.error === undefined ? undefined : lastError(update.error),
      webhooks: update === undefined ? [] : webhooksOf(item.tenant, payload, update, currentTraceparent()),
      messages: [...messages, ...(update === undefined ? [] : [updateMessage(item.tenant, payload, update)])],
    };
    await persistently(lease, () => this.#store.write(item, lease, write));
    if (update !== undefined) {
      this.#seq = update.seq;
      this.#status = update.status;
    }
  }

  #next(state: TaskState): TaskUpdated {
    if (!mayFollow(this.#status, state.status)) {
      throw fault('INTERNAL_ERROR', `a task cannot go from ${this.#status} to ${state.status}`);
    }
    return updateOf(this.payload, state, { seq: this.#seq + 1, attempt: this.item.attempt, now: new Date() });
  }
}

/** As it is told, so that it can be stored as well. */
function lastError({ error_code, message }: NonNullable<TaskUpdated['error']>): string {
  return `${error_code}: ${message}`.slice(0, 2_000);
}

/**
 * Repeats while the lease lasts and the database is away: the step has had its effect, and would be run again although
 * its outcome is known. A commit whose answer was lost is found by the repeat: it changes nothing, or says LEASE_LOST.
 */
async function persistently<T>(lease: Lease, write: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await write();
    } catch (error) {
      if (!isFault(error, 'DATABASE_UNAVAILABLE') || lease.signal.aborted) throw error;
      await pause(writeAgainMs, lease.signal);
    }
  }
}
