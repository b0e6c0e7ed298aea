import { createHash } from 'node:crypto';
import type { AcceptLoad, Place } from '@signalbox/api/accept-load';
import type { WriteAnswer } from '@signalbox/api/write-routes';
import type { TaskSubmitted } from '@signalbox/contracts/delegation-tasks';
import type { TaskStatus } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Outbox } from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { Static } from 'typebox';
import { type CallbackUrlRules, checkCallbackUrl } from './callback-url.ts';
import { maxMetadataBytes, maxPayloadBytes, type SubmitTaskBody } from './request-schemas.ts';
import { type MessageContext, taskMessage } from './task-messages.ts';
import { findStanding, insertTask } from './task-store.ts';

export interface Submission {
  readonly tenant: string;
  readonly body: Static<typeof SubmitTaskBody>;
  readonly rawBody: Buffer;
  readonly context: MessageContext;
}

export interface SubmitTaskParts {
  readonly outbox: Pick<Outbox, 'put'>;
  readonly load: AcceptLoad;
  readonly callbackUrls: CallbackUrlRules;
}

/** One request to submit a task, on its way through write-routes. */
export interface Submitting {
  /** For a task whose id is made here: nothing of it can be known, so the door is asked before the database. */
  admit(): void;
  /** Stores the task with its record, or answers from the task that is there. May run several times. */
  effect(tx: Transaction): Promise<WriteAnswer>;
  /** The answer is that of a task that an earlier request has made. */
  readonly known: boolean;
  /** Gives the place at the door back. Call it once, when the request is over. */
  done(stored: boolean): void;
}

/**
 * Checks what the schema cannot say, and makes the ids, before the first try. Faults of this: VALIDATION_ERROR,
 * BODY_TOO_LARGE. Faults of the effect: CONFLICT (another body under this task_id), OUTBOX_FULL, TENANT_BUSY.
 */
export function submitTask(parts: SubmitTaskParts, submission: Submission): Submitting {
  const { outbox, load, callbackUrls } = parts;
  const { tenant, body, rawBody, context } = submission;
  checkSizes(body);
  if (body.callback_url !== undefined) checkCallbackUrl(body.callback_url, callbackUrls);
  const task = taskOf(body, Date.now());
  const bodyHash = createHash('sha256').update(rawBody).digest();
  const ref = { tenant, taskId: task.task_id };
  let place: Place | undefined;
  let known = false;

  async function answerFromStanding(tx: Transaction): Promise<WriteAnswer | undefined> {
    const standing = await findStanding(tx, ref);
    if (standing === undefined) return undefined;
    if (standing.body_hash === null || !bodyHash.equals(standing.body_hash))
      throw fault('CONFLICT', 'there is a task of this id with another body');
    known = true;
    return answer(task.task_id, standing.status);
  }

  return {
    admit() {
      if (body.task_id === undefined) place ??= load.admit(tenant);
    },
    async effect(tx) {
      known = false;
      if (body.task_id !== undefined) {
        // A repeat adds no load, and its client must not be left to wonder whether the first try went through.
        const found = await answerFromStanding(tx);
        if (found !== undefined) return found;
        place ??= load.admit(tenant);
      }
      if (!(await insertTask(tx, tenant, task, bodyHash))) {
        // Another request made it between the two statements, and has committed.
        const found = await answerFromStanding(tx);
        if (found === undefined) throw fault('DATABASE_UNAVAILABLE', 'the task was just forgotten');
        return found;
      }
      await outbox.put(tx, [taskMessage(ref, { eventType: 'task.submitted', value: task }, context)]);
      return answer(task.task_id, 'queued');
    },
    get known() {
      return known;
    },
    done(stored) {
      place?.settle(stored);
    },
  };
}

function answer(taskId: string, status: TaskStatus): WriteAnswer {
  return { status: 202, body: { task_id: taskId, status }, location: `/v1/delegation/task/${taskId}` };
}

function taskOf(body: Submission['body'], now: number): TaskSubmitted {
  const { payload } = body;
  const what =
    'persona_id' in payload
      ? { target: { persona_id: payload.persona_id }, input: { message: payload.message } }
      : { target: { handler: payload.handler }, input: payload.input };
  return {
    task_id: body.task_id ?? newId(),
    ...what,
    priority: payload.priority ?? 5,
    depth: 0,
    ...(body.deadline_ms === undefined
      ? {}
      : { deadline_at: new Date(now + body.deadline_ms).toISOString() }),
    ...(body.callback_url === undefined ? {} : { callback_url: body.callback_url }),
    ...(body.metadata === undefined ? {} : { metadata: body.metadata }),
    submitted_at: new Date(now).toISOString(),
  };
}

function checkSizes({ payload, metadata }: Submission['body']): void {
  refuseOver(payload, maxPayloadBytes, 'payload');
  if (metadata !== undefined) refuseOver(metadata, maxMetadataBytes, 'metadata');
}

/** BODY_TOO_LARGE when the value is over the limit as JSON. */
export function refuseOver(value: object, maxBytes: number, name: string): void {
  if (Buffer.byteLength(JSON.stringify(value)) > maxBytes)
    throw fault('BODY_TOO_LARGE', `${name} is at most ${maxBytes} bytes as JSON`);
}
