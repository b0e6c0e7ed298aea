import { Type } from 'typebox';

/** Fields that several topics share. Text without a bound here is bounded by the record's size (900 kB). */
export const Id = Type.String({
  pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$',
  description: 'UUIDv7, lower case',
});

export const CallId = Type.String({
  pattern: '^[0-9a-f]{32}$',
  description:
    'Hex of SHA-256 over turn, step, tool and canonical arguments, cut to 32: the same over every retry',
});

export const Attempt = Type.Integer({ minimum: 1, description: 'Tries of the turn; a takeover adds one' });
export const Step = Type.Integer({ minimum: 0, description: 'Place of the step in its turn' });
export const ToolName = Type.String({ pattern: '^[A-Za-z0-9_.-]{1,64}$' });
export const Instant = Type.String({ format: 'date-time', description: 'RFC 3339, UTC' });
export const Count = Type.Integer({ minimum: 0 });
export const DurationMs = Type.Number({ minimum: 0 });
export const Name = Type.String({ minLength: 1, maxLength: 128 });
/** A part of a tenant's memories, `default` where nothing else was said. */
export const Namespace = Type.String({ pattern: '^[a-z0-9][a-z0-9_.-]{0,63}$' });
export const MemoryVersion = Type.Integer({ minimum: 1, description: 'Rises by one with each change' });
/** Who said it: a person, the agent, a tool; `note` is written by hand. */
export const MemoryRole = Type.Union([
  Type.Literal('user'),
  Type.Literal('assistant'),
  Type.Literal('tool'),
  Type.Literal('note'),
]);
export type MemoryRole = Type.Static<typeof MemoryRole>;
export const OpenObject = Type.Record(Type.String(), Type.Unknown());

export const ToolOutcome = Type.Union(
  [
    Type.Literal('ok'),
    Type.Literal('error'),
    Type.Literal('invalid_arguments'),
    Type.Literal('unknown_tool'),
    Type.Literal('wall_limit'),
    Type.Literal('cpu_limit'),
    Type.Literal('memory_limit'),
    Type.Literal('output_limit'),
    Type.Literal('cancelled'),
    Type.Literal('unknown'),
  ],
  {
    description:
      'ok, why it failed, the limit it reached, cancelled, or unknown when a crash hid what became of it',
  },
);
export type ToolOutcome = Type.Static<typeof ToolOutcome>;
