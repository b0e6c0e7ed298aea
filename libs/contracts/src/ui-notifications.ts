import { type Static, Type } from 'typebox';
import { Id, Instant, Name, OpenObject } from './fields.ts';

/** Something that people of the tenant should see although they did not ask for it. Shown once for its id. */
export const NotificationPosted = Type.Object({
  notification_id: Id,
  /** What it is about: `task.completed`, `webhook.failed`, `memory.failed`, `export.ready`. */
  kind: Name,
  level: Type.Union([Type.Literal('info'), Type.Literal('warning'), Type.Literal('error')]),
  title: Type.String({ minLength: 1, maxLength: 200 }),
  body: Type.Optional(Type.String({ maxLength: 4_096 })),
  session_id: Type.Optional(Id),
  /** What a client needs to act on it: ids, a link. */
  data: Type.Optional(OpenObject),
  created_at: Instant,
  /** After this it is not listed any more, and the janitor removes it. */
  expires_at: Instant,
});
export type NotificationPosted = Static<typeof NotificationPosted>;

export const uiNotificationsSchema = 'ui.notifications.v1';
export const uiNotificationsEvents = { 'notification.posted': NotificationPosted } as const;
