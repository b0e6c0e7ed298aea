import { type Static, Type } from 'typebox';
import { Count, Id, Instant, Name, OpenObject } from './fields.ts';

export const JobKind = Type.Union([Type.Literal('export_session'), Type.Literal('export_memory')]);
export type JobKind = Static<typeof JobKind>;

/** A job for job-worker, once for its id. */
export const JobRequested = Type.Object({
  job_id: Id,
  kind: JobKind,
  /** `{session_id}` of export_session; `{namespaces?, session_id?}` of export_memory. */
  arguments: OpenObject,
  requested_at: Instant,
});
/** Asks job-worker for the jobs of the tenant, newest first, or for one of them; scheduled ones among them. */
export const JobsAsked = Type.Object({
  job_id: Type.Optional(Id),
  before: Type.Optional(Id),
  limit: Type.Integer({ minimum: 1, maximum: 100 }),
  deadline_at: Instant,
});
/**
 * One bounded piece of upkeep that only the owner of the tables can do: asked by job-worker, done by any replica of
 * `owner`, and asked again while the answer says that there is more. Doing it twice does no more than once.
 */
export const UpkeepRequested = Type.Object({
  owner: Name,
  task: Name,
  /** Rows, or what the task counts, at most. */
  limit: Type.Integer({ minimum: 1, maximum: 10_000 }),
  /** What the answer before gave as `resume`. */
  resume: Type.Optional(OpenObject),
  deadline_at: Instant,
});
/** Asks the gateway for a page of a session, for an export. */
export const SessionPageAsked = Type.Object({
  session_id: Id,
  after: Type.Optional(Type.String({ maxLength: 64 })),
  limit: Type.Integer({ minimum: 1, maximum: 500 }),
  deadline_at: Instant,
});
export type JobRequested = Static<typeof JobRequested>;
export type JobsAsked = Static<typeof JobsAsked>;
export type UpkeepRequested = Static<typeof UpkeepRequested>;
export type SessionPageAsked = Static<typeof SessionPageAsked>;

export const jobsCommandsSchema = 'jobs.commands.v1';
export const jobsCommandsEvents = {
  'job.requested': JobRequested,
  'jobs.asked': JobsAsked,
  'upkeep.requested': UpkeepRequested,
  'session.page_asked': SessionPageAsked,
} as const;

export const JobStatus = Type.Union([
  Type.Literal('waiting'),
  Type.Literal('running'),
  Type.Literal('done'),
  Type.Literal('failed'),
]);
export const Job = Type.Object({
  job_id: Id,
  kind: Name,
  status: JobStatus,
  attempts: Count,
  arguments: OpenObject,
  /** What it came to: of an export its link, until when the link holds, rows and bytes. */
  result: Type.Optional(OpenObject),
  error: Type.Optional(Type.String()),
  requested_at: Instant,
  finished_at: Type.Optional(Instant),
});
export type Job = Static<typeof Job>;

export const JobsListed = Type.Object({
  jobs: Type.Array(Job),
  /** Of scheduled work: name, cron pattern, when it last ran and with what. */
  schedules: Type.Optional(Type.Array(OpenObject)),
});
export const UpkeepDone = Type.Object({
  owner: Name,
  task: Name,
  done: Count,
  more: Type.Boolean(),
  resume: Type.Optional(OpenObject),
  /** What else it has to say: bytes that were saved, rows that were looked at. */
  detail: Type.Optional(OpenObject),
});
export const SessionPage = Type.Object({
  /** One for each stored event, in the order of the stream; the messages among them. */
  rows: Type.Array(OpenObject),
  next_after: Type.Optional(Type.String()),
});
export const JobsRefused = Type.Object({ error_code: Name, message: Type.String() });
export type JobsListed = Static<typeof JobsListed>;
export type UpkeepDone = Static<typeof UpkeepDone>;
export type SessionPage = Static<typeof SessionPage>;
export type JobsRefused = Static<typeof JobsRefused>;

export const jobsResultsSchema = 'jobs.results.v1';
export const jobsResultsEvents = {
  'jobs.listed': JobsListed,
  'upkeep.done': UpkeepDone,
  'session.page': SessionPage,
  'jobs.refused': JobsRefused,
} as const;
