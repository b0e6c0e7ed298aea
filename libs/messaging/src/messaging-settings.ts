import type { kafkaSettings } from '@signalbox/config/kafka-settings';
import type { outboxSettings } from '@signalbox/config/outbox-settings';
import type { SettingsOf } from '@signalbox/config/settings';

/** The settings that a connection to the broker reads. */
export type KafkaSettings = SettingsOf<typeof kafkaSettings>;

/** The settings of `openMessaging`. Those of the outbox have defaults, for programs that only consume or create topics. */
export type MessagingSettings = KafkaSettings & Partial<SettingsOf<typeof outboxSettings>>;
