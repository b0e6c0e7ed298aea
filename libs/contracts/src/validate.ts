import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import type { TSchema } from 'typebox';
import { type EventType, type EventValue, type TopicEvents, topicEvents } from './topic-events.ts';
import type { SourceTopicName } from './topics.ts';

export interface ValueError {
  /** JSON pointer to the place in the value; empty for the value itself. */
  readonly path: string;
  readonly message: string;
}

export type ValueCheck<V> =
  | { readonly ok: true; readonly value: V }
  | { readonly ok: false; readonly errors: readonly ValueError[] };

interface TopicValidators {
  readonly schema: string;
  readonly byEvent: ReadonlyMap<string, ValidateFunction>;
  readonly unknownEvent: ValidateFunction | undefined;
}

/** At most this many errors are told: a dead letter's reason is for people. */
const maxErrors = 16;

// Topic schemas are open: fields of a later release pass. `ownProperties`: a field counts only when the value itself
// has it, so that a polluted or foreign prototype can neither satisfy `required` nor break it.
const ajv = new Ajv2020({ strict: true, allErrors: false, ownProperties: true, validateFormats: true });
formats.default(ajv, ['date-time']);

// Maps, not objects: topic and event type come from outside, and `constructor` must not find anything.
const prepared = new Map<string, TopicValidators>();
const definitions: ReadonlyMap<string, TopicEvents> = new Map(Object.entries(topicEvents));

function compile(schema: TSchema): ValidateFunction {
  return ajv.compile(schema);
}

function validators(topic: string): TopicValidators | undefined {
  const found = prepared.get(topic);
  if (found !== undefined) {
    return found;
  }
  const definition = definitions.get(topic);
  if (definition === undefined) {
    return undefined;
  }
  const byEvent = new Map(Object.entries(definition.events).map(([type, schema]) => [type, compile(schema)]));
  const unknownEvent = definition.unknownEvent === undefined ? undefined : compile(definition.unknownEvent);
  const made = { schema: definition.schema, byEvent, unknownEvent };
  prepared.set(topic, made);
  return made;
}

/** Compiles the validators of these topics now (a few ms each) instead of at their first record. */
export function prepareValidators(topics: Iterable<SourceTopicName>): void {
  for (const topic of topics) {
    validators(topic);
  }
}

function refused(message: string): { ok: false; errors: ValueError[] } {
  return { ok: false, errors: [{ path: '', message }] };
}

function told(errors: readonly ErrorObject[] | null | undefined): ValueError[] {
  return (errors ?? []).slice(0, maxErrors).map((error) => ({
    path: error.instancePath,
    message: error.message ?? error.keyword,
  }));
}

/**
 * Checks a record's value against the schema that its headers name. Total: never throws, whatever the three texts and
 * the value are. Unknown fields pass; an unknown event type passes where the topic says so (see `TopicEvents`); another
 * schema version or an unknown topic is refused. The value is returned as it was given, never changed or copied.
 */
export function validateValue(
  topic: string,
  eventType: string,
  schemaName: string,
  value: unknown,
): ValueCheck<unknown> {
  const known = validators(topic);
  if (known === undefined) {
    return refused(`no schema for topic ${JSON.stringify(topic)}`);
  }
  if (schemaName !== known.schema) {
    return refused(`schema ${JSON.stringify(schemaName)} is not ${known.schema}`);
  }
  const validate = known.byEvent.get(eventType) ?? known.unknownEvent;
  if (validate === undefined) {
    return refused(`unknown event type ${JSON.stringify(eventType)}`);
  }
  return validate(value) ? { ok: true, value } : { ok: false, errors: told(validate.errors) };
}

/**
 * The value as the type of this event, or undefined when it is not one. For handlers that got a checked record and
 * need its type; costs a second check (about as much as reading the fields) instead of a cast.
 */
export function readValue<T extends SourceTopicName, E extends EventType<T>>(
  topic: T,
  eventType: E,
  value: unknown,
): EventValue<T, E> | undefined {
  const validate = validators(topic)?.byEvent.get(eventType);
  return validate !== undefined && isValue<EventValue<T, E>>(validate, value) ? value : undefined;
}

function isValue<V>(validate: ValidateFunction, value: unknown): value is V {
  return validate(value) === true;
}
