import { TaskOrigin, TaskTarget } from '@signalbox/contracts/delegation-tasks';
import { TaskStatus } from '@signalbox/contracts/delegation-updates';
import { Type } from 'typebox';

const closed = { additionalProperties: false };
const OpenObject = Type.Record(Type.String(), Type.Unknown());
const Uuid = Type.String({
  pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$',
  description: 'UUID, lower case',
});
const Instant = Type.String({ format: 'date-time' });
const Priority = Type.Optional(
  Type.Integer({ minimum: 0, maximum: 9, description: '9 is the most urgent; 5 when left out' }),
);

/** A week: as long as delegation.tasks keeps what nobody could take. */
export const maxDeadlineMs = 604_800_000;
export const maxPayloadBytes = 262_144;
export const maxMetadataBytes = 16_384;

/** HTTP schemas are closed: what nobody reads is refused, not ignored. */
export const SubmitTaskBody = Type.Object(
  {
    task_id: Type.Optional(
      Type.String({
        ...Uuid,
        description:
          'Made here when left out. A repeat with the same body is the same task; another body is 409.',
      }),
    ),
    payload: Type.Union(
      [
        Type.Object(
          {
            persona_id: Type.String({ minLength: 1, maxLength: 128 }),
            message: Type.String({ minLength: 1 }),
            priority: Priority,
          },
          closed,
        ),
        Type.Object(
          {
            handler: Type.String({ minLength: 1, maxLength: 128 }),
            input: OpenObject,
            priority: Priority,
          },
          closed,
        ),
      ],
      { description: 'A turn of a persona, or code registered in delegation-worker. 256 kB at most.' },
    ),
    callback_url: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 2_048,
        description: 'Told when the task ends: https, absolute, a public host, no user in it.',
      }),
    ),
    deadline_ms: Type.Optional(
      Type.Integer({
        minimum: 100,
        maximum: maxDeadlineMs,
        description: 'Counted from now; a task that has not ended by then expires.',
      }),
    ),
    metadata: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { maxProperties: 64, description: '16 kB at most.' }),
    ),
  },
  { ...closed, examples: [{ payload: { persona_id: 'assistant', message: 'What is 6 * 7?' } }] },
);

export const CancelTaskBody = Type.Union([
  Type.Object({ reason: Type.Optional(Type.String({ minLength: 1, maxLength: 500 })) }, closed),
  Type.Null(),
]);

export const CallbackBody = Type.Object({ input: OpenObject }, closed);

/** Not checked for its form: what is no id is no task of anybody's, which is 404 and not 422. */
export const TaskParams = Type.Object({ id: Type.String({ description: 'Task id' }) });

export const StreamQuery = Type.Object(
  {
    last_event_id: Type.Optional(
      Type.String({ description: 'Instead of the header Last-Event-ID, for browsers, which cannot set it.' }),
    ),
  },
  closed,
);

export const TaskPageQuery = Type.Object(
  {
    status: Type.Optional(TaskStatus),
    before: Type.Optional(Type.String({ description: 'next_before of the page before' })),
    limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200, description: 'Entries of a page' })),
  },
  closed,
);

export const TaskReply = Type.Object({ task_id: Uuid, status: TaskStatus });
export const CallbackReply = Type.Object({ task_id: Uuid, status: TaskStatus, input_id: Uuid });

export const TaskView = Type.Object({
  task_id: Uuid,
  status: TaskStatus,
  seq: Type.Integer({ description: 'Of the last update; 0 before the first' }),
  attempt: Type.Integer(),
  target: TaskTarget,
  priority: Type.Integer(),
  depth: Type.Integer({ description: '0 for a task of a caller, one more for each that another delegated' }),
  parent_task_id: Type.Optional(Uuid),
  origin: Type.Optional(TaskOrigin),
  deadline_at: Type.Optional(Instant),
  progress: Type.Optional(
    Type.String({ description: 'How far it has come; what is asked for, in input_required' }),
  ),
  result: Type.Optional(OpenObject),
  error: Type.Optional(Type.Object({ error_code: Type.String(), message: Type.String() })),
  callback_url: Type.Optional(Type.String()),
  webhook: Type.Optional(
    Type.Object({
      status: Type.Enum(['delivered', 'failed']),
      attempts: Type.Integer(),
      last_error: Type.Optional(Type.String()),
      updated_at: Instant,
    }),
  ),
  metadata: Type.Optional(OpenObject),
  submitted_at: Instant,
  updated_at: Instant,
  ended_at: Type.Optional(Instant),
});

export const TaskPage = Type.Object({
  tasks: Type.Array(TaskView, { description: 'Newest first, without results' }),
  next_before: Type.Union([Type.String(), Type.Null()]),
});
